"""reference_model, perplexity, pruning_thresholds and pruned_corpus as Dagster runs them."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from dagster import AssetsDefinition, DagsterInstance, ExecuteInProcessResult, materialize

from resources.compute import Compute
from resources.lake import Lake
from resources.settings import REPOSITORY, Settings, load_pipeline_config
from tests.language_model.toy import save_toy_model
from tests.pruning.toy_corpus import toy_documents, write_toy_documents
from yunmin_assets.pruning.assets import (
    cut_file,
    perplexity,
    pruned_corpus,
    pruning_thresholds,
    reference_model,
)
from yunmin_assets.pruning.selection import Cut

COUNT = 60


class Pruning:
    """A lake with deduplicated documents, a checkpoint, and the assets behind them."""

    def __init__(self, home: Path, instance: DagsterInstance) -> None:
        self.lake, self.instance, self.home = Lake(uri=str(home / "lake")), instance, home
        self.checkpoint = save_toy_model(home / "checkpoint", "mamba2")
        self.configure()

    def configure(self, **pruning: object) -> None:
        values = {
            "lake": self.lake.uri,
            "reference_model": {"path": str(self.checkpoint)},
            "pruning": {"token_budget": 256, "max_length": 128, **pruning},
        }
        (self.home / "pipeline.yaml").write_text(yaml.safe_dump(values))

    def deliver(self, domain: str, count: int = COUNT) -> None:
        self.instance.add_dynamic_partitions("domain", [domain])
        with self.lake.stage("deduped_corpus", domain) as staging:
            write_toy_documents(toy_documents(count, domain), staging.folder / "train.parquet")
            self.lake.commit(staging, asset="deduped_corpus", domain=domain, fingerprint=str(count))

    def run(self, asset: AssetsDefinition, domain: str | None = None) -> ExecuteInProcessResult:
        return materialize(
            [asset],
            partition_key=domain,
            resources={
                "lake": self.lake,
                "settings": Settings(path=str(self.home / "pipeline.yaml")),
                "compute": Compute(device="cpu"),
            },
            instance=self.instance,
            raise_on_error=False,
        )

    def score(self, *domains: str) -> None:
        for domain in domains:
            assert self.run(perplexity, domain).success

    def version(self, asset: str, domain: str | None = None) -> str:
        return self.lake.current(asset, domain).manifest.version


@pytest.fixture
def pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pruning]:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    with DagsterInstance.ephemeral() as instance:
        yield Pruning(tmp_path, instance)


def failure(result: ExecuteInProcessResult) -> str:
    assert not result.success
    data = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    assert data.error is not None
    described = data.user_failure_data.description if data.user_failure_data else ""
    return f"{described} {data.error.message} {data.error.cause.message if data.error.cause else ''}"


def test_a_checkpoint_scores_and_prunes_two_domains(pruning: Pruning) -> None:
    for domain in ("law", "food"):
        pruning.deliver(domain)
    assert pruning.run(reference_model).success
    reference = pruning.lake.current("reference_model")
    assert {file.name.split("/")[0] for file in reference.manifest.files} == {"given"}
    assert reference.manifest.summary["metadata"]["architecture"] == "mamba2"
    pruning.score("law", "food")
    assert pruning.run(pruning_thresholds).success
    for domain in ("law", "food"):
        assert pruning.run(pruned_corpus, domain).success
        pruned = pruning.lake.current("pruned_corpus", domain)
        cut = Cut.model_validate_json(
            (pruning.lake.current("pruning_thresholds").local / cut_file(domain)).read_text()
        )
        assert pruned.file("train.parquet").rows == cut.kept == round((COUNT - COUNT // 11) / 2 + 0.01)
        assert pruned.rows("") == COUNT
        metadata = pruned.manifest.summary["metadata"]
        assert "data:image/png" in metadata["distribution"]["markdown"]
        assert "`law-" in metadata["examples"]["markdown"] or "`food-" in metadata["examples"]["markdown"]
    shares = pruning.lake.current("pruning_thresholds").manifest.summary["metadata"]["domain_shares"]
    assert "tokens after" in shares["markdown"] and "| `law` |" in shares["markdown"]


def test_another_domains_delivery_changes_nothing_here_unless_thresholds_are_global(pruning: Pruning) -> None:
    pruning.deliver("law")
    assert pruning.run(reference_model).success
    for thresholds, expected_the_same in (("per_domain", True), ("global", False)):
        pruning.configure(thresholds=thresholds, selection_rate=0.9)
        pruning.deliver("food", 30)
        pruning.score("law", "food")
        assert pruning.run(pruning_thresholds).success
        assert pruning.run(pruned_corpus, "law").success
        before = pruning.version("pruning_thresholds"), pruning.version("pruned_corpus", "law")
        pruning.deliver("food", 300)
        pruning.score("food")
        assert pruning.run(pruning_thresholds).success
        assert pruning.run(pruned_corpus, "law").success
        assert pruning.version("pruning_thresholds") != before[0]
        assert (pruning.version("pruned_corpus", "law") == before[1]) == expected_the_same


def test_what_was_made_from_older_documents_or_scores_is_refused(pruning: Pruning) -> None:
    pruning.deliver("law")
    assert pruning.run(reference_model).success
    pruning.score("law")
    assert pruning.run(pruning_thresholds).success
    pruning.deliver("law", COUNT + 1)
    assert "materialize perplexity[law] again" in failure(pruning.run(pruned_corpus, "law"))
    pruning.score("law")
    assert "materialize pruning_thresholds again" in failure(pruning.run(pruned_corpus, "law"))
    assert pruning.run(pruning_thresholds).success
    assert pruning.run(pruned_corpus, "law").success


def test_an_option_of_the_selection_scores_nothing_again(pruning: Pruning) -> None:
    pruning.deliver("law")
    assert pruning.run(reference_model).success
    pruning.score("law")
    before = pruning.version("perplexity", "law")
    pruning.configure(criterion="high", selection_rate=0.3, thresholds="global", seed=4)
    pruning.score("law")
    assert pruning.version("perplexity", "law") == before
    pruning.configure(tokens_per_document=2)
    pruning.score("law")
    assert pruning.version("perplexity", "law") != before
    assert (
        max(
            pq.read_table(pruning.lake.current("perplexity", "law").local / "scores.parquet")[
                "n_scored"
            ].to_pylist()
        )
        == 2
    )


def test_a_checkpoint_that_cannot_score_is_refused_before_anything_is_done(pruning: Pruning) -> None:
    pruning.deliver("law")
    (pruning.checkpoint / "config.json").unlink()
    assert "checkpoint holds no config.json" in failure(pruning.run(reference_model))
    assert pruning.lake.versions("reference_model") == []


def test_a_domain_of_which_nothing_is_kept_fails_alone_and_says_so(pruning: Pruning) -> None:
    pruning.deliver("law")
    pruning.deliver("empty", 0)
    assert pruning.run(reference_model).success
    pruning.score("law", "empty")
    assert pruning.run(pruning_thresholds).success
    assert "not_empty: 0 of 0 are kept" in failure(pruning.run(pruned_corpus, "empty"))
    assert pruning.run(pruned_corpus, "law").success


def test_a_global_cut_that_would_leave_nothing_of_a_domain_is_refused_and_the_cuts_before_stay(
    pruning: Pruning,
) -> None:
    pruning.deliver("law")
    pruning.deliver("food", 30)
    assert pruning.run(reference_model).success
    pruning.score("law", "food")
    assert pruning.run(pruning_thresholds).success
    before = pruning.version("pruning_thresholds")
    pruning.configure(thresholds="global", criterion="low", selection_rate=0.02)
    message = failure(pruning.run(pruning_thresholds))
    assert "nothing would be left of" in message and "raise pruning.selection_rate, or set" in message
    assert pruning.version("pruning_thresholds") == before


def test_a_relative_path_of_the_reference_model_begins_at_the_repository(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("reference_model: {path: models/small}")
    assert (
        load_pipeline_config(tmp_path / "pipeline.yaml").reference_model.path == REPOSITORY / "models/small"
    )
