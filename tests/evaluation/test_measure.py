"""Models are compared on the same documents, with the right sign and without overconfidence."""

import math
from pathlib import Path

import pyarrow as pa
import pytest

from tests.evaluation.tiny_models import save_broken_model, save_scaled_model, save_twins
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.measure import (
    FEWEST_DOCUMENTS,
    LOSSES_SCHEMA,
    choose_documents,
    measure_perplexity,
)
from yunmin_assets.evaluation.model import PerplexityCell

CONFIG = EvaluationConfig(bootstrap_samples=200)


def documents(count: int) -> pa.Table:
    texts = [f"제{number}조 법원은 법률에 따라 판결한다. " * (1 + number % 3) for number in range(count)]
    return pa.table({"id": [f"law-{number}" for number in range(count)], "text": texts})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model, the same again, and others whose output is too sure of itself or not a number."""
    home = tmp_path_factory.mktemp("models")
    return save_twins(home) | {
        "spoiled": save_scaled_model(home / "spoiled", 60.0),
        "exploded": save_scaled_model(home / "exploded", 1e6),
        "broken": save_broken_model(home / "broken"),
    }


def measured(models: dict[str, Path], name: str, count: int) -> tuple[list[PerplexityCell], pa.Table]:
    by_domain = {key: {"law": models[key]} for key in ("base", name)}
    return measure_perplexity({"law": documents(count)}, by_domain, CONFIG)


def test_an_identical_model_is_not_shown_to_differ(models: dict[str, Path]) -> None:
    base, cell = measured(models, "merged", 30)[0]
    assert (base.difference, base.verdict) == (None, None)
    assert (cell.difference, cell.p_value, cell.verdict) == (0.0, 1.0, "not shown")
    assert cell.perplexity == base.perplexity


def test_a_spoiled_model_is_worse_than_the_base_and_never_better(models: dict[str, Path]) -> None:
    cell = measured(models, "spoiled", 30)[0][1]
    assert cell.difference is not None and cell.difference > 0
    assert cell.verdict == "worse"


def test_too_few_documents_get_no_verdict_however_large_the_difference(models: dict[str, Path]) -> None:
    cell = measured(models, "spoiled", FEWEST_DOCUMENTS - 1)[0][1]
    assert cell.difference is not None and cell.difference > 0
    assert (cell.verdict, cell.p_value) == ("not shown", 1.0)


def test_every_documents_loss_is_kept_and_adds_up_to_the_cell(models: dict[str, Path]) -> None:
    cells, losses = measured(models, "spoiled", 5)
    assert losses.schema == LOSSES_SCHEMA
    rows = losses.to_pylist()
    assert [(row["model"], row["id"]) for row in rows] == [
        (model, f"law-{number}") for model in ("base", "spoiled") for number in range(5)
    ]
    assert len({row["text_hash"] for row in rows}) == 5
    for cell in cells:
        of_model = [row for row in rows if row["model"] == cell.model]
        nll = math.fsum(row["nll"] for row in of_model)
        assert cell.tokens == sum(row["n_tokens"] for row in of_model)
        assert cell.perplexity == pytest.approx(math.exp(nll / cell.tokens))
        n_bytes = sum(len(text.encode()) for text in documents(5)["text"].to_pylist())
        assert cell.bits_per_byte == pytest.approx(nll / math.log(2) / n_bytes)


def test_a_document_without_a_token_takes_no_part(models: dict[str, Path]) -> None:
    table = pa.concat_tables([documents(3), pa.table({"id": ["empty"], "text": [""]})])
    cells, losses = measure_perplexity({"law": table}, {"base": {"law": models["base"]}}, CONFIG)
    assert cells[0].documents == 3
    assert "empty" not in losses["id"].to_pylist()
    with pytest.raises(ValueError, match=r"base on law: no test document has a token; raise splits\.test"):
        measure_perplexity({"law": table.slice(3)}, {"base": {"law": models["base"]}}, CONFIG)


def test_a_loss_that_is_not_a_number_is_named_by_document_and_never_averaged(models: dict[str, Path]) -> None:
    with pytest.raises(FloatingPointError, match=r"document 'law-0' scores nan: the model in .*/broken"):
        measured(models, "broken", 3)


def test_a_loss_beyond_all_perplexities_names_model_and_domain(models: dict[str, Path]) -> None:
    with pytest.raises(FloatingPointError, match=r"exploded on law loses [\d,]+ nats per token"):
        measured(models, "exploded", 3)


def test_the_same_documents_are_chosen_in_any_row_order() -> None:
    table = documents(50)
    shuffled = table.take(pa.array(range(49, -1, -1)))
    chosen = choose_documents(table, 10)["id"].to_pylist()
    assert len(chosen) == 10
    assert set(chosen) == set(choose_documents(shuffled, 10)["id"].to_pylist())
