"""A pruning study trains every arm on equal tokens, survives being killed, and claims only what it can show."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from dagster import DagsterInstance, materialize
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from resources.compute import Compute
from resources.lake import Lake
from resources.settings import Settings, load_pipeline_config
from tests.language_model.toy import END_OF_TEXT, VOCABULARY, save_toy_tokenizer
from tests.pruning.toy_corpus import toy_documents, write_toy_documents
from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.language_model import training
from yunmin_assets.pruning import (
    SCORE_SCHEMA,
    PruningConfig,
    StudyConfig,
    StudyInputs,
    run_study,
    select_documents,
    study,
)
from yunmin_assets.pruning.assets import pruning_study
from yunmin_assets.pruning.study import WholeBatches, choose_held_out

DOMAINS = {"law": 60, "food": 40}
STEPS, BATCH_SIZE, ROW = 4, 4, 16
OPTIONS: dict[str, Any] = {
    "arms": {"none": [1.0], "medium": [0.5], "random": [0.5]},
    "model": {"hidden_size": 16, "layers": 1, "state_size": 4},
    "training": {"steps": STEPS, "batch_size": BATCH_SIZE, "checkpoint_every": 2},
    "documents_per_domain": 24,
    "bootstrap_samples": 100,
}
CONFIG = StudyConfig(**OPTIONS)
PRUNING = PruningConfig(token_budget=256, max_length=64)


def made_up_scores(documents: pa.Table) -> pa.Table:
    """Perplexities by lot; null without text."""
    texts = documents["text"].to_pylist()
    lots = np.random.default_rng(len(texts)).lognormal(size=len(texts))
    columns = {
        "id": documents["id"].to_pylist(),
        "n_tokens": [len(text) for text in texts],
        "n_bytes": [len(text.encode()) for text in texts],
        "n_scored": [len(text) for text in texts],
        "nll": [0.0] * len(texts),
        "perplexity": [float(lot) if text else None for lot, text in zip(lots, texts, strict=True)],
        "bits_per_byte": [None] * len(texts),
    }
    return pa.table(columns, schema=SCORE_SCHEMA)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedTokenizerFast]:
    folder = tmp_path_factory.mktemp("tokenizer")
    return folder, save_toy_tokenizer(folder)


@pytest.fixture(scope="module")
def inputs(
    tokenizer: tuple[Path, PreTrainedTokenizerFast], tmp_path_factory: pytest.TempPathFactory
) -> StudyInputs:
    home = tmp_path_factory.mktemp("inputs")
    files: dict[str, dict[str, Path]] = {"train": {}, "validation": {}, "scores": {}}
    for domain, count in DOMAINS.items():
        documents = toy_documents(count, domain)
        for split, rows in (("train", documents), ("validation", toy_documents(30, domain))):
            files[split][domain] = write_toy_documents(rows, home / f"{domain}-{split}.parquet")
        files["scores"][domain] = home / f"{domain}-scores.parquet"
        pq.write_table(made_up_scores(documents), files["scores"][domain])
    return StudyInputs(files["train"], files["scores"], files["validation"], tokenizer[0])


def run(
    inputs: StudyInputs, folder: Path, work: Path, config: StudyConfig = CONFIG, **options: Any
) -> dict[str, bytes]:
    """Every file that a study writes."""
    pack = PackConfig(seq_len=ROW, vocab_size=VOCABULARY, eos_id=0)
    run_study(inputs, config, PRUNING, pack, folder, work, **options)
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


@pytest.fixture(scope="module")
def done(inputs: StudyInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("done")
    return folder, run(inputs, folder, tmp_path_factory.mktemp("work"))


def test_all_arms_see_equal_tokens_and_select_what_pruned_corpus_keeps(
    done: tuple[Path, dict[str, bytes]],
    inputs: StudyInputs,
    tokenizer: tuple[Path, PreTrainedTokenizerFast],
) -> None:
    report = json.loads(done[1]["study.json"])
    assert [(one["criterion"], one["rate"]) for one in report["selections"]] == [
        ("none", 1.0),
        ("medium", 0.5),
        ("random", 0.5),
    ]
    for one in report["selections"]:
        config = PRUNING.model_copy(update={"criterion": one["criterion"], "selection_rate": one["rate"]})
        texts: list[str] = []
        for domain in DOMAINS:
            kept = select_documents(pq.read_table(inputs.scores[domain]), config).kept
            texts += pq.read_table(inputs.train[domain])["text"].filter(pa.array(kept)).to_pylist()
        tokens = sum(len(tokenizer[1](text)["input_ids"]) + 1 for text in texts)
        (facts,) = one["seeds"]
        assert (facts["documents"], facts["tokens"]) == (len(texts), tokens)
        assert facts["trained_tokens"] == STEPS * BATCH_SIZE * ROW
        rows = -(-(tokens - 1) // ROW)
        assert facts["epochs"] == pytest.approx(STEPS * BATCH_SIZE / rows, rel=0.1)


def test_every_model_loads_and_gives_the_reported_perplexity(
    done: tuple[Path, dict[str, bytes]],
    inputs: StudyInputs,
    tokenizer: tuple[Path, PreTrainedTokenizerFast],
) -> None:
    folder, files = done
    medium = json.loads(files["study.json"])["selections"][1]
    model = AutoModelForCausalLM.from_pretrained(folder / "arms" / "medium-0.5-seed0" / "model")
    held_out = choose_held_out(inputs.validation, CONFIG.documents_per_domain)
    nll, count = 0.0, 0
    for document in held_out.to_pylist():
        if document["domain"] == "law":
            ids = torch.tensor([[0, *tokenizer[1](document["text"])["input_ids"]]])
            with torch.no_grad():
                logits = model(ids).logits[0, :-1].double()
            nll += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    assert medium["perplexity"]["law"] == pytest.approx(np.exp(nll / count), rel=1e-4)


def killed_before(call: int, owner: Any, function: str, work: Callable[[], object]) -> bool:
    """Run `work` in a process that kills itself before the call-th call of a function; whether it came to that."""
    child = os.fork()
    if not child:
        original, calls = getattr(owner, function), iter(range(call))

        def killing(*arguments: Any, **options: Any) -> Any:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        try:
            setattr(owner, function, killing)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(
    ("owner", "function", "calls"),
    [
        (training, "backward", (3, 5, 3, 2)),
        (study, "write_whole", (0, 1, 2, 2)),
        (study, "score_documents", (0, 1)),
    ],
    ids=["in training", "while an arm is finished", "before an arm is measured"],
)
def test_killed_again_and_again_it_goes_on_to_the_same_bytes(
    done: tuple[Path, dict[str, bytes]],
    inputs: StudyInputs,
    tmp_path: Path,
    owner: Any,
    function: str,
    calls: tuple[int, ...],
) -> None:
    work = tmp_path / "work"
    for call in calls:
        assert killed_before(call, owner, function, lambda: run(inputs, tmp_path / "killed", work))
    lines: list[str] = []
    assert run(inputs, tmp_path / "out", work, log=lines.append) == done[1]
    assert any("arm 3 of 3, random-0.5-seed0" in line for line in lines)
    assert not any("arm 1 of 3" in line for line in lines)


def test_the_log_says_which_arm_of_how_many_and_the_time_left(inputs: StudyInputs, tmp_path: Path) -> None:
    lines: list[str] = []
    run(inputs, tmp_path / "out", tmp_path / "work", log=lines.append)
    left = [line for line in lines if "s of training left in the study" in line]
    assert [line.split(":")[0] for line in left] == [
        f"arm {number} of 3, {name}-seed0"
        for number, name in enumerate(("none-1", "medium-0.5", "random-0.5"), start=1)
    ]
    assert left[-1].endswith("about 0 s of training left in the study")


class ShortEnds:
    """Epochs of three batches, the last of which is not whole."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        while True:
            rows = 1 if self.position % 3 == 2 else 4
            self.position += 1
            yield {"input_ids": torch.full((rows, 2), self.position)}

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def test_incomplete_batches_are_left_out_also_when_going_on() -> None:
    def numbers(batches: WholeBatches, count: int) -> list[int]:
        return [int(batch["input_ids"][0, 0]) for batch, _ in zip(batches, range(count), strict=False)]  # type: ignore[index]

    first = WholeBatches(ShortEnds(), 4)
    assert numbers(first, 3)[:2] == [1, 2]
    again = WholeBatches(ShortEnds(), 4)
    again.load_state_dict({"position": 2})
    assert numbers(again, 3) == [4, 5, 7]


def test_a_selection_of_less_than_a_batch_is_refused_by_name(inputs: StudyInputs, tmp_path: Path) -> None:
    config = StudyConfig(**OPTIONS | {"training": {"steps": 2, "batch_size": 4000}})
    with pytest.raises(
        ValueError, match=r"arm none-1-seed0 selects .* lower pruning_study.training.batch_size"
    ):
        run(inputs, tmp_path / "out", tmp_path / "work", config)


def test_too_few_validation_documents_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    files = {"law": write_toy_documents(toy_documents(15), tmp_path / "law.parquet")}
    with pytest.raises(ValueError, match=r"no domain has 20 validation documents \(law\)"):
        choose_held_out(files, 100)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"lowest": [0.5]}, "arms.lowest"),
        ({"low": [0.5], "random": [1.5]}, "arms.random.0: Input should be less than or equal to 1"),
        ({"low": [0], "random": [0.5]}, "arms.low.0: Input should be greater than 0"),
        (
            {"low": [0.5, 0.25], "random": [0.5]},
            "arms.low has no random control at 0.25: add it to arms.random",
        ),
        ({"none": [0.5]}, r"arms.none is \[0.5\]: it keeps everything"),
        ({"random": [0.5, 0.5]}, "name each rate once"),
        ({}, "at least 1 item"),
    ],
)
def test_arms_that_cannot_be_compared_are_refused_by_name(
    tmp_path: Path, arms: dict[str, list[float]], message: str
) -> None:
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump({"pruning_study": {"arms": arms}}))
    with pytest.raises(ValueError, match=message):
        load_pipeline_config(tmp_path / "pipeline.yaml")


def test_dagster_publishes_the_study_and_choosing_a_criterion_does_not_make_it_again(
    inputs: StudyInputs,
    tokenizer: tuple[Path, PreTrainedTokenizerFast],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    lake = Lake(uri=str(tmp_path / "lake"))

    def publish(asset: str, domain: str | None, files: dict[str, Path], **manifest: Any) -> None:
        with lake.stage(asset, domain) as staging:
            for name, source in files.items():
                (staging.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (staging.folder / name).write_bytes(source.read_bytes())
            lake.commit(staging, asset=asset, domain=domain, fingerprint="toy", **manifest)

    vocabulary = {f"tokenizer/{file.name}": file for file in tokenizer[0].iterdir()}
    metadata = {"vocab_size": VOCABULARY, "eos_id": tokenizer[1].convert_tokens_to_ids(END_OF_TEXT)}
    publish("tokenizer", None, vocabulary, summary={"metadata": metadata})
    for domain in DOMAINS:
        documents = {
            "train.parquet": inputs.train[domain],
            "validation.parquet": inputs.validation[domain],
        }
        publish("deduped_corpus", domain, documents)
        train = lake.current("deduped_corpus", domain).file("train.parquet").sha256
        publish(
            "perplexity",
            domain,
            {"scores.parquet": inputs.scores[domain]},
            inputs={"deduped_corpus train": train},
        )
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("domain", [*DOMAINS, "not_there_yet"])
        published = []
        for criterion in ("medium", "high"):
            values = {
                "lake": lake.uri,
                "pack": {"seq_len": ROW},
                "pruning": {"token_budget": 256, "max_length": 64, "criterion": criterion},
                "pruning_study": OPTIONS,
            }
            (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(values))
            resources = {
                "lake": lake,
                "settings": Settings(path=str(tmp_path / "pipeline.yaml")),
                "compute": Compute(device="cpu"),
            }
            result = materialize([pruning_study], resources=resources, instance=instance)
            checks = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
            assert checks == {"equal_tokens": True, "every_domain_present": False}
            published.append(
                result.asset_materializations_for_node("pruning_study")[0].metadata["published"].value
            )
    assert published == [True, False]
    snapshot = lake.current("pruning_study")
    assert {file.name.split("/")[0] for file in snapshot.manifest.files} == {"study.json", "arms"}
    assert snapshot.manifest.cost.tokens == 3 * STEPS * BATCH_SIZE * ROW
    shown = snapshot.manifest.summary["metadata"]
    assert "| medium | 0.5 |" in shown["results"]["markdown"]
    assert "data:image/png" in shown["against_random"]["markdown"]
