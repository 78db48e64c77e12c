"""tokenizer, parquet_shards and loading_benchmark as Dagster runs them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dagster import AssetsDefinition, DagsterInstance, ExecuteInProcessResult, materialize

from resources.lake import Lake
from resources.settings import Settings
from tests.columnar.toy_domain import WORDS, files_no_larger_than, make_documents, write_source
from yunmin_assets.columnar import TokenizerConfig, train_tokenizer
from yunmin_assets.columnar.assets import loading_benchmark, parquet_shards


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
        values = {"lake": self.lake.uri, "pack": {"seq_len": 16, **pack}}
        self.config.write_text(yaml.safe_dump(values))
        self.settings = Settings(path=str(self.config))

    def deliver(self, domain: str, train: int, validation: int = 10, seed: int = 0) -> None:
        """Publish the upstream documents of a domain."""
        for asset, split, count in (
            ("pruned_corpus", "train", train),
            ("deduped_corpus", "validation", validation),
        ):
            with self.lake.stage(asset, domain) as staging:
                write_source(staging.folder / f"{split}.parquet", make_documents(count, seed))
                self.lake.commit(staging, asset=asset, domain=domain, fingerprint="1")

    def run(self, asset: AssetsDefinition, domain: str | None = None) -> ExecuteInProcessResult:
        if domain:
            self.instance.add_dynamic_partitions("domain", [domain])
        return materialize(
            [asset],
            partition_key=domain,
            resources={"lake": self.lake, "settings": self.settings},
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
    assert not [*Path(columnar.lake.uri).glob("_work/parquet_shards/*")]


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
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"same_content": True, "every_reader_measured": True, "every_domain_present": False}
    snapshot = columnar.lake.current("loading_benchmark")
    figures = snapshot.manifest.summary["metadata"]
    assert figures["sample_documents"] == 400
    assert figures["rows_speedup_over_orjson"] > 0 and figures["text_speedup_over_json"] > 0
    assert "PackedDataset" in figures["readers"]["markdown"]
    assert snapshot.manifest.cost.tokens == figures["sample_tokens"]
    assert columnar.run(loading_benchmark).success
    assert columnar.lake.current("loading_benchmark").manifest.version == snapshot.manifest.version
