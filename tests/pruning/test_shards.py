"""A file is scored shard by shard, the same whatever was killed, damaged or run on how many threads."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.language_model.toy import save_toy_tokenizer, toy_model
from tests.pruning.toy_corpus import toy_documents, toy_models, write_small_row_groups
from yunmin_assets.pruning import SCORE_SCHEMA, ScoringConfig, cross_score, losses, score_file, shards
from yunmin_assets.pruning.shards import iterate_shards

DOCUMENTS = 130
CONFIG = ScoringConfig(token_budget=256, max_length=64)
SHARD_TEXT_BYTES = 2000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, models, and what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("home")
    write_small_row_groups(toy_documents(DOCUMENTS), folder / "documents.parquet")
    toy_models(folder)
    score(folder, folder / "expected.parquet")
    return folder


def score(home: Path, target: Path, work: Path | None = None, **options: object) -> bytes:
    models = {"a": home / "a", "b": home / "b"}
    options = {
        "config": CONFIG,
        "shard_text_bytes": SHARD_TEXT_BYTES,
        "workspace": work or home / "work",
        **options,
    }
    score_file(home / "documents.parquet", models, target, **options)
    return target.read_bytes()


def own_copy(home: Path, target: Path) -> Path:
    shutil.copytree(home, target, ignore=lambda *_: ["work", "expected.parquet"])
    return target


def test_every_document_has_the_score_of_cross_scoring_in_its_place(home: Path) -> None:
    scores = pq.read_table(home / "expected.parquet")
    documents = pq.read_table(home / "documents.parquet")
    assert scores.schema.equals(SCORE_SCHEMA) and scores["id"].equals(documents["id"])
    expected = cross_score(documents, {"a": home / "a", "b": home / "b"}, CONFIG)
    assert scores["n_tokens"].equals(expected["n_tokens"])
    np.testing.assert_allclose(scores["nll"].to_numpy(), expected["nll"].to_numpy(), rtol=1e-5)
    assert scores["perplexity"].null_count == DOCUMENTS // 11


def killed_before(call: int, owner: Any, function: str, work: Callable[[], object]) -> bool:
    """Run `work` in a process that kills itself before the call-th call of a function; whether it came to that."""
    child = os.fork()
    if not child:
        original, calls = getattr(owner, function), iter(range(call))

        def killing(*arguments: Any) -> Any:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        setattr(owner, function, killing)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(
    ("owner", "function", "calls"),
    [(losses.WindowLosses, "_batch_sums", (0, 7, 20, 21, 33)), (shards, "flush", (0, 1, 4, 7, 8))],
    ids=["inside a shard", "while it is written"],
)
def test_killed_again_and_again_it_goes_on_to_the_same_bytes(
    home: Path, tmp_path: Path, owner: Any, function: str, calls: tuple[int, ...]
) -> None:
    work, finished = tmp_path / "work", [0]
    for call in calls:
        assert killed_before(call, owner, function, lambda: score(home, tmp_path / "killed", work))
        finished.append(len(list(work.glob("*.scores"))))
    everything = len(list((home / "work").iterdir()))
    assert finished == sorted(finished)
    assert 0 < finished[-1] < everything
    lines: list[str] = []
    assert score(home, tmp_path / "out", work, log=lines.append) == (home / "expected.parquet").read_bytes()
    assert 0 < int(lines[-1].split()[0]) < DOCUMENTS


def test_the_result_does_not_depend_on_the_number_of_threads(home: Path, tmp_path: Path) -> None:
    torch.set_num_threads(3)
    try:
        assert score(home, tmp_path / "out", tmp_path / "work") == (home / "expected.parquet").read_bytes()
    finally:
        torch.set_num_threads(1)


def test_finished_shards_are_not_scored_again(home: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    assert score(home, tmp_path / "out", log=lines.append) == (home / "expected.parquet").read_bytes()
    assert lines == []


@pytest.mark.parametrize("damage", ["cut short", "one byte", "of other documents"])
def test_a_damaged_or_foreign_shard_is_scored_again(home: Path, tmp_path: Path, damage: str) -> None:
    work = tmp_path / "work"
    shutil.copytree(home / "work", work)
    victim, other = sorted(work.glob("*.scores"))[1:3]
    content = bytearray(victim.read_bytes())
    if damage == "cut short":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "one byte":
        content[len(content) // 3] ^= 1
        victim.write_bytes(content)
    else:
        shutil.copy(other, victim)
    lines: list[str] = []
    assert score(home, tmp_path / "out", work, log=lines.append) == (home / "expected.parquet").read_bytes()
    shard = list(iterate_shards(home / "documents.parquet", SHARD_TEXT_BYTES))[1]
    assert lines[-1].startswith(f"{shard.num_rows} documents scored")
    assert str(victim) in lines[0] and "damaged" in lines[0]


def test_scores_of_another_model_or_of_other_options_are_not_used(home: Path, tmp_path: Path) -> None:
    again = own_copy(home, tmp_path / "again")
    shutil.copytree(home / "work", again / "work")
    shutil.copytree(again / "a", again / "b", dirs_exist_ok=True)
    assert score(again, tmp_path / "out") != (home / "expected.parquet").read_bytes()
    config = CONFIG.model_copy(update={"tokens_per_document": 2})
    score(home, tmp_path / "short", config=config)
    assert max(pq.read_table(tmp_path / "short")["n_scored"].to_pylist()) == 2


def test_no_documents_give_no_scores(home: Path, tmp_path: Path) -> None:
    write_small_row_groups(toy_documents(0), tmp_path / "documents.parquet")
    models = {"a": home / "a", "b": home / "b"}
    score_file(tmp_path / "documents.parquet", models, tmp_path / "out", CONFIG, tmp_path / "work")
    assert pq.read_table(tmp_path / "out").equals(SCORE_SCHEMA.empty_table())


def test_shards_hold_every_document_once_and_a_very_long_one_ends_its_shard(tmp_path: Path) -> None:
    documents = toy_documents(100).to_pydict()
    documents["text"][40] = "가나다 " * 5000
    table = pa.table(documents)
    path = write_small_row_groups(table, tmp_path / "documents.parquet")
    shards = list(iterate_shards(path, 3000))
    assert pa.concat_tables(shards)["id"].to_pylist() == documents["id"]
    assert all(shard.num_rows < 50 for shard in shards)
    assert sum(max(map(len, shard["text"].to_pylist())) > 5000 for shard in shards) == 1


def test_a_broken_model_is_named_with_the_document(home: Path, tmp_path: Path) -> None:
    broken = toy_model("mamba2")
    with torch.no_grad():
        broken.backbone.norm_f.weight[0] = float("nan")
    broken.save_pretrained(tmp_path / "b")
    save_toy_tokenizer(tmp_path / "b")
    models = {"a": home / "a", "b": tmp_path / "b"}
    with pytest.raises(
        FloatingPointError, match=rf"document 'law-\d+' scores nan: the model in {tmp_path}/b"
    ):
        score_file(home / "documents.parquet", models, tmp_path / "out", CONFIG, tmp_path / "work")
    assert not (tmp_path / "out").exists()
