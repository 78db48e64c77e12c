"""Models are compared on the same documents, with the right sign and without overconfidence."""

from pathlib import Path

import pyarrow as pa
import pytest

from tests.language_model.toy import save_toy_tokenizer
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.measure import (
    FEWEST_DOCUMENTS,
    choose_documents,
    measure_perplexity,
    read_prompts,
)
from yunmin_assets.language_model.architecture import build_model
from yunmin_assets.language_model.config import ModelConfig
from yunmin_assets.language_model.tokenizer import copy_tokenizer, load_tokenizer

CONFIG = EvaluationConfig(bootstrap_samples=200)


def documents(count: int) -> pa.Table:
    texts = [f"law {number} court judge rule " * (1 + number % 3) for number in range(count)]
    return pa.table({"id": [str(number) for number in range(count)], "text": texts})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model, the same again, and one whose output is far too sure of itself."""
    home = tmp_path_factory.mktemp("models")
    tokenizer_dir = home / "tokenizer"
    save_toy_tokenizer(tokenizer_dir)
    tokenizer = load_tokenizer(tokenizer_dir)
    folders = {}
    for name, sharpness in (("base", 1.0), ("same", 1.0), ("spoiled", 60.0)):
        model = build_model(
            ModelConfig(hidden_size=16, layers=1), len(tokenizer), tokenizer.eos_token_id, seed=0
        )
        model.backbone.norm_f.weight.data *= sharpness
        model.save_pretrained(home / name)
        copy_tokenizer(tokenizer_dir, home / name)
        folders[name] = home / name
    return folders


def measured(models: dict[str, Path], name: str, count: int):  # type: ignore[no-untyped-def]
    by_domain = {key: {"law": models[key]} for key in ("base", name)}
    return measure_perplexity({"law": documents(count)}, by_domain, CONFIG)[1]


def test_an_identical_model_is_not_shown_to_differ(models: dict[str, Path]) -> None:
    cell = measured(models, "same", 30)
    assert (cell.difference, cell.verdict) == (0.0, "not shown")


def test_a_spoiled_model_is_worse_than_the_base_and_never_better(models: dict[str, Path]) -> None:
    cell = measured(models, "spoiled", 30)
    assert cell.difference > 0
    assert cell.verdict == "worse"


def test_too_few_documents_get_no_verdict_however_large_the_difference(models: dict[str, Path]) -> None:
    cell = measured(models, "spoiled", FEWEST_DOCUMENTS - 1)
    assert cell.difference > 0
    assert (cell.verdict, cell.p_value) == ("not shown", 1.0)


def test_the_same_documents_are_chosen_in_any_row_order() -> None:
    table = documents(50)
    shuffled = table.take(pa.array(range(49, -1, -1)))
    chosen = choose_documents(table, 10)["id"].to_pylist()
    assert len(chosen) == 10
    assert set(chosen) == set(choose_documents(shuffled, 10)["id"].to_pylist())


def test_a_bad_prompt_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "1", "kind": "poem", "prompt": "봄"}\n{"id": "2"}\n')
    with pytest.raises(ValueError, match=r"prompts\.jsonl, line 2: needs a JSON object"):
        read_prompts(path)
