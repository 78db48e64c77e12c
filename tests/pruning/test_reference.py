"""No document is scored by the model that was trained on it."""

import re
import shutil

import pyarrow as pa
import pytest

from tests.columnar.toy_domain import with_gap_in_ids
from tests.language_model.toy import folder_bytes, save_toy_model, save_toy_tokenizer, toy_batches, toy_texts
from yunmin_assets.language_model import ModelConfig, TrainingConfig
from yunmin_assets.pruning import (
    ReferenceConfig,
    ScoringConfig,
    cross_score,
    half_of,
    score_documents,
    train_reference_model,
)
from yunmin_assets.pruning.reference import describe_reference, take_over_reference
from yunmin_assets.pruning.reference_folders import models_in, require_checkpoint

CONFIG = ReferenceConfig(
    model=ModelConfig(hidden_size=32, layers=2, state_size=4),
    training=TrainingConfig(steps=3, warmup_steps=1, checkpoint_every=2),
)


def test_the_halves_are_stable_and_about_equal():
    halves = [half_of(f"document {i}") for i in range(2000)]
    assert set(halves) == {"a", "b"}
    assert 900 < halves.count("a") < 1100
    assert "".join(half_of(f"문서-{i}") for i in range(8)) == "abbbbbba"


def test_each_half_is_scored_by_the_model_of_the_other(tmp_path):
    models = {half: save_toy_model(tmp_path / half, "mamba2", seed) for seed, half in enumerate("ab")}
    texts = toy_texts("law", 12)
    documents = pa.table({"id": [f"d{i}" for i in range(12)], "text": texts})
    scores = cross_score(documents, models, ScoringConfig(token_budget=1024))
    assert scores.column("id").to_pylist() == documents.column("id").to_pylist()
    by_model = {half: score_documents(documents, models[half]).column("nll").to_pylist() for half in "ab"}
    seen = set()
    for row, (document_id, nll) in enumerate(
        zip(*scores.select(["id", "nll"]).to_pydict().values(), strict=True)
    ):
        own = half_of(document_id)
        other = "b" if own == "a" else "a"
        assert nll == pytest.approx(by_model[other][row], rel=1e-5)
        assert nll != pytest.approx(by_model[own][row], rel=1e-3)
        seen.add(own)
    assert seen == {"a", "b"}


def test_no_documents_give_an_empty_table(tmp_path):
    documents = pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    assert cross_score(documents, {"a": tmp_path, "b": tmp_path}).num_rows == 0


def test_the_model_of_a_half_can_score_and_is_the_same_every_time(tmp_path):
    tokenizer = save_toy_tokenizer(tmp_path / "tokenizer")
    for run in ("first", "second"):
        result = train_reference_model(
            "a",
            toy_batches(tokenizer, "law"),
            CONFIG,
            tmp_path / "tokenizer",
            tmp_path / run,
            tmp_path / f"{run} state",
        )
        assert len(result.losses) == 3
    assert folder_bytes(tmp_path / "first" / "a") == folder_bytes(tmp_path / "second" / "a")
    documents = pa.table({"id": ["d"], "text": ["법원은 판결한다."]})
    assert score_documents(documents, tmp_path / "first" / "a").column("perplexity")[0].as_py() > 1


def test_one_checkpoint_with_its_own_tokenizer_can_score_both_halves(tmp_path):
    source = save_toy_model(tmp_path / "source", "llama")
    taken = take_over_reference(source, tmp_path / "out")
    models = models_in(tmp_path / "out")
    assert models == {"a": taken, "b": taken}
    assert describe_reference(taken)["architecture"] == "llama"
    documents = pa.table({"id": [f"d{i}" for i in range(6)], "text": toy_texts("law", 6)})
    assert cross_score(documents, models).equals(score_documents(documents, source))


def test_gaps_in_the_ids_of_its_tokenizer_need_embeddings_too(tmp_path):
    source = save_toy_model(tmp_path / "source", "mamba2")
    with_gap_in_ids(source, tmp_path / "tokenizer")
    shutil.copytree(tmp_path / "tokenizer", source, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="the tokenizer needs 310 embeddings, the model has 300"):
        describe_reference(source)


@pytest.mark.parametrize("lacking", ["config.json", "tokenizer*", "*.safetensors"])
def test_a_folder_that_cannot_score_is_refused_by_what_it_lacks(tmp_path, lacking):
    source = save_toy_model(tmp_path / "source", "mamba2")
    require_checkpoint(source)
    for file in source.glob(lacking):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=f"source holds no {re.escape(lacking)}"):
        require_checkpoint(source)
    with pytest.raises(FileNotFoundError, match="elsewhere is not a folder"):
        require_checkpoint(tmp_path / "elsewhere")
