"""tokenizer, parquet_shards and loading_benchmark as Dagster runs them."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import AssetsDefinition, DagsterInstance, ExecuteInProcessResult, materialize

from resources.compute import Compute
from resources.lake import Lake
from resources.settings import Settings
from tests.columnar.toy_domain import WORDS, files_no_larger_than, make_documents, write_source
from tests.test_backfill import TINY
from yunmin_assets.columnar import TokenizerConfig, train_tokenizer
from yunmin_assets.columnar.assets import loading_benchmark, parquet_shards, tokenizer
from yunmin_assets.columnar.shuffling import KEY_BYTES
from yunmin_assets.dem.assets import base_model
from yunmin_assets.pruning.assets import reference_model
from yunmin_assets.snapshot_files import TRAIN_FILE

TINY_MODELS = {name: TINY[name] for name in ("reference_model", "base_model")}


class Columnar:
    """A lake with upstream snapshots, and the assets behind them."""

    def __init__(self, home: Path, instance: DagsterInstance) -> None:
        self.lake, self.instance, self.config = Lake(uri=str(home / "lake")), instance, home / "pipeline.yaml"
        self.settings = Settings(path=str(self.config))
        self.configure()
        with self.lake.stage("tokenizer") as staging:
            folder = staging.folder / "tokenizer"
            summary = train_tokenizer(iter([WORDS] * 3), TokenizerConfig(vocab_size=400), folder)
            facts = {"metadata": {"vocab_size": summary.vocab_size, "eos_id": summary.eos_id}, "checks": []}
            self.lake.commit(staging, asset="tokenizer", domain=None, fingerprint="1", summary=facts)

    def configure(self, **pack: object) -> None:
        values = {"lake": self.lake.uri, "pack": {"seq_len": 16, **pack}, **TINY_MODELS}
        self.config.write_text(yaml.safe_dump(values))
        self.settings = Settings(path=str(self.config))

    def deliver(self, domain: str, train: int, validation: int = 10, seed: int = 0) -> None:
        """Publish the upstream documents of a domain; pruning keeps all of them."""
        made_from = self.split(domain, train, validation, seed)
        with self.lake.stage("pruned_corpus", domain) as staging:
            write_source(staging.folder / "train.parquet", make_documents(train, seed))
            inputs = {"deduped_corpus train": made_from}
            self.lake.commit(staging, asset="pruned_corpus", domain=domain, fingerprint="1", inputs=inputs)

    def split(self, domain: str, train: int, validation: int = 10, seed: int = 0) -> str:
        """Publish the splits of a domain; return the hash of its training documents."""
        self.instance.add_dynamic_partitions("domain", [domain])
        with self.lake.stage("deduped_corpus", domain) as staging:
            write_source(staging.folder / "train.parquet", make_documents(train, seed))
            write_source(staging.folder / "validation.parquet", make_documents(validation, seed + 100))
            deduped = self.lake.commit(staging, asset="deduped_corpus", domain=domain, fingerprint="1")
        return deduped.file(TRAIN_FILE).sha256

    def run(self, asset: AssetsDefinition, domain: str | None = None) -> ExecuteInProcessResult:
        return materialize(
            [asset],
            partition_key=domain,
            resources={"lake": self.lake, "settings": self.settings, "compute": Compute(device="cpu")},
            instance=self.instance,
            raise_on_error=False,
        )


@pytest.fixture
def columnar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Columnar]:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    with DagsterInstance.ephemeral() as instance:
        yield Columnar(tmp_path, instance)


def failure(result: ExecuteInProcessResult) -> str:
    assert not result.success
    data = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert data.error is not None
    return data.error.message + (data.error.cause.message if data.error.cause else "")


def test_shards_are_published_with_the_figures_a_person_wants(columnar: Columnar) -> None:
    columnar.deliver("law", 100)
    assert columnar.run(parquet_shards, "law").success
    snapshot = columnar.lake.current("parquet_shards", "law")
    figures = snapshot.manifest.summary["metadata"]
    assert figures["train_documents"] == 100 and figures["validation_documents"] == 10
    assert figures["padding_share"] == figures["padding_tokens"] / (figures["train_rows"] * 16)
    assert 0 < figures["documents_bytes_per_jsonl_byte"] < 1
    assert figures["train_shards"] == figures["document_shards"] == 1
    assert "tokens per training document" in figures["tokens_per_document"]["markdown"]
    cost = snapshot.manifest.cost
    assert cost.tokens == figures["train_tokens"] + figures["validation_tokens"]
    assert not [*Path(columnar.lake.uri).glob("_work/parquet_shards/*/*")]


def checks_of(result: ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_a_domain_without_training_documents_does_not_stop_the_tokenizer_of_all(columnar: Columnar) -> None:
    columnar.split("empty", 0)
    columnar.split("law", 100)
    result = columnar.run(tokenizer)
    assert result.success
    assert checks_of(result) == {"round_trip": True, "every_domain_present": True}
    figures = columnar.lake.current("tokenizer").manifest.summary["metadata"]
    assert figures["trained_on_documents"] == 100
    assert figures["characters_per_token"] > 1
    assert len(figures["samples"]["markdown"].splitlines()) == 3  # head, rule, and the one of law


def test_documents_that_are_held_out_now_are_not_trained_on(columnar: Columnar) -> None:
    columnar.deliver("law", 50)
    columnar.split("law", 50, seed=1)  # again, with other clusters
    message = r"pruned_corpus[law] was made from an older deduped_corpus train: materialize pruned_corpus[law] again"
    assert message in failure(columnar.run(parquet_shards, "law"))


def test_rows_that_were_damaged_on_their_way_are_noticed_and_made_anew_by_a_retry(
    columnar: Columnar, monkeypatch: pytest.MonkeyPatch
) -> None:
    columnar.deliver("law", 300)
    with monkeypatch.context() as patched:  # the process ends when all rows are scattered
        patched.setattr("yunmin_assets.columnar.shards.write_shards", stop)
        assert "stopped here" in failure(columnar.run(parquet_shards, "law"))
    bucket = sorted(Path(columnar.lake.uri).glob("_work/parquet_shards/law/*/train/pieces/00000/??"))[0]
    data = bytearray(bucket.read_bytes())
    data[KEY_BYTES] ^= 1  # of the first token behind the key
    bucket.write_bytes(data)
    result = columnar.run(parquet_shards, "law")
    (retry,) = (event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY")
    assert "train damaged in " in str(retry.event_specific_data)
    assert result.success
    assert checks_of(result) == {"every_token_packed": True}


def stop(*_: object, **__: object) -> None:
    raise OSError(errno.EINTR, "stopped here")


def test_more_memory_for_the_shuffle_publishes_nothing(columnar: Columnar) -> None:
    columnar.deliver("law", 50)
    assert columnar.run(parquet_shards, "law").success
    version = columnar.lake.current("parquet_shards", "law").manifest.version
    columnar.configure(shuffle_memory_mb=8)
    assert columnar.run(parquet_shards, "law").success
    assert columnar.lake.current("parquet_shards", "law").manifest.version == version
    columnar.configure(seed=1)
    assert columnar.run(parquet_shards, "law").success
    assert columnar.lake.current("parquet_shards", "law").manifest.version != version


@pytest.mark.parametrize("model", [reference_model, base_model], ids=["reference_model", "base_model"])
def test_more_memory_for_the_shuffle_trains_no_model_again(
    columnar: Columnar, model: AssetsDefinition
) -> None:
    columnar.split("law", 100)
    name = model.key.path[-1]
    assert columnar.run(model).success
    version = columnar.lake.current(name).manifest.version
    columnar.configure(shuffle_memory_mb=8)
    assert columnar.run(model).success
    assert columnar.lake.current(name).manifest.version == version


def test_on_a_full_disk_the_old_shards_stay_and_the_next_run_goes_on(columnar: Columnar) -> None:
    columnar.deliver("law", 50)
    assert columnar.run(parquet_shards, "law").success
    old = columnar.lake.current("parquet_shards", "law")
    columnar.deliver("law", 4000)
    with files_no_larger_than(50_000):
        result = columnar.run(parquet_shards, "law")
    assert "took no more bytes" in failure(result) and "make room" in failure(result)
    assert columnar.lake.current("parquet_shards", "law").manifest.version == old.manifest.version
    assert old.verify() == []
    assert columnar.run(parquet_shards, "law").success
    assert (
        columnar.lake.current("parquet_shards", "law").manifest.summary["metadata"]["train_documents"] == 4000
    )


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        (0, 10, "law has no training documents: raise pruning.selection_rate or deliver more text"),
        (10, 0, "law has no validation documents: raise splits.validation or deliver more text"),
    ],
)
def test_a_domain_without_documents_is_refused_with_the_cure(
    columnar: Columnar, train: int, validation: int, message: str
) -> None:
    columnar.deliver("law", train, validation)
    assert message in failure(columnar.run(parquet_shards, "law"))


def test_loading_is_measured_over_all_domains_and_once(columnar: Columnar) -> None:
    for seed, domain in enumerate(("law", "tech")):
        columnar.deliver(domain, 200, seed=seed)
        assert columnar.run(parquet_shards, domain).success
    columnar.instance.add_dynamic_partitions("domain", ["absent"])
    result = columnar.run(loading_benchmark)
    assert result.success
    assert checks_of(result) == {
        "same_content": True,
        "every_reader_measured": True,
        "one_layout": True,
        "every_domain_present": False,
    }
    snapshot = columnar.lake.current("loading_benchmark")
    figures = snapshot.manifest.summary["metadata"]
    assert figures["sample_documents"] == 400
    assert figures["rows_speedup_over_orjson"] > 0 and figures["text_speedup_over_json"] > 0
    assert "PackedDataset" in figures["readers"]["markdown"]
    assert snapshot.manifest.cost.tokens == figures["sample_tokens"]
    assert (
        0
        < snapshot.manifest.cost.bytes_in
        < sum(columnar.lake.current("parquet_shards", domain).bytes for domain in ("law", "tech"))
    )
    assert columnar.run(loading_benchmark).success
    assert columnar.lake.current("loading_benchmark").manifest.version == snapshot.manifest.version


def test_a_domain_that_is_still_packed_in_an_older_layout_is_left_out_and_named(columnar: Columnar) -> None:
    columnar.deliver("old", 100)
    assert columnar.run(parquet_shards, "old").success
    columnar.configure(seq_len=32)
    for seed, domain in enumerate(("law", "tech")):
        columnar.deliver(domain, 100, seed=seed)
        assert columnar.run(parquet_shards, domain).success
    result = columnar.run(loading_benchmark)
    assert result.success
    (check,) = (one for one in result.get_asset_check_evaluations() if one.check_name == "one_layout")
    assert not check.passed
    assert check.description == "materialize parquet_shards again for: old"
    snapshot = columnar.lake.current("loading_benchmark")
    assert set(snapshot.manifest.inputs) == {"parquet_shards[law]", "parquet_shards[tech]"}
    assert snapshot.manifest.summary["metadata"]["sample_documents"] == 200
