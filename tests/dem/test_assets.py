"""lora_adapter, joint_adapter and all that follows as Dagster runs them, with adapters and with whole models."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from dagster import DagsterInstance, materialize
from transformers import AutoModelForCausalLM

from resources.compute import Compute
from resources.lake import Lake
from resources.settings import Settings
from tests.dem.toy_rows import pack_toy_domain
from tests.language_model.toy import TOY_LENGTH, save_toy_model, toy_texts
from yunmin_assets.dem import Difference
from yunmin_assets.dem.assets import diff_vector, domain_weights, joint_adapter, lora_adapter, merged_model
from yunmin_assets.dem.config import LoraConfig
from yunmin_assets.documents import write_documents

DOMAINS = ["food", "law"]
LICENCES = {"food": "CC BY 4.0", "law": "KOGL-1", "travel": "KOGL-1"}
TOKENIZER_HASH = "hash of the tokenizer asset"
TRAINING = {"steps": 8, "batch_size": 4, "warmup_steps": 1, "learning_rate": 0.02}


class Dem:
    """A lake with a base model and packed rows, and the assets that follow."""

    def __init__(self, home: Path, instance: DagsterInstance, **options: object) -> None:
        self.lake, self.instance = Lake(uri=str(home / "lake")), instance
        self.base = save_toy_model(home / "base", "mamba2")
        with self.lake.stage("base_model") as staging:
            save_toy_model(staging.folder / "model", "mamba2")
            self.lake.commit(
                staging,
                asset="base_model",
                domain=None,
                fingerprint="1",
                inputs={"tokenizer": TOKENIZER_HASH},
            )
        for domain in DOMAINS:
            self.deliver(domain)
        lora = {
            "rank": 4,
            "alpha": 8,
            "training": TRAINING,
            "early_stopping": {"validate_every": 4, "rows": 8},
            **options,
        }
        weights = {"steps": 4, "search_rows": 8, "comparison_rows": 8}
        config = home / "pipeline.yaml"
        config.write_text(yaml.safe_dump({"lora_adapter": lora, "domain_weights": weights}))
        self.settings = Settings(path=str(config))

    def deliver(self, domain: str) -> None:
        """Publish the packed rows of a domain and the documents they are from, and register it."""
        with self.lake.stage("parquet_shards", domain) as staging:
            pack_toy_domain(self.base, domain, staging.folder / "packed")
            texts = toy_texts(domain, 5)
            documents = {
                "id": [f"{domain}-{number}" for number in range(len(texts))],
                "text": texts,
                "source": ["synthetic:tests"] * len(texts),
                "license": [LICENCES[domain]] * len(texts),
                "n_tokens": pa.array([12] * len(texts), pa.int32()),
            }
            write_documents(pa.table(documents), staging.folder / "documents" / "shard-00000.parquet")
            inputs = {"tokenizer": TOKENIZER_HASH}
            self.lake.commit(staging, asset="parquet_shards", domain=domain, fingerprint="1", inputs=inputs)
        self.instance.add_dynamic_partitions("domain", [domain])

    def versions(self, *assets: str) -> dict[tuple[str, str], str]:
        """Version of the current snapshot by asset and domain."""
        return {
            (asset, domain): self.lake.current(asset, domain).manifest.version
            for asset in assets
            for domain in DOMAINS
        }

    def run(self, asset, domain=None):
        resources = {"lake": self.lake, "settings": self.settings, "compute": Compute(device="cpu")}
        return materialize(
            [asset],
            partition_key=domain,
            resources=resources,
            instance=self.instance,
            raise_on_error=False,
        )

    def run_all(self):
        for domain in DOMAINS:
            for asset in (lora_adapter, diff_vector):
                assert self.run(asset, domain).success
        for asset in (joint_adapter, domain_weights, merged_model):
            assert self.run(asset).success


@pytest.fixture(autouse=True, scope="module")
def _one_core():
    """Assets take every core they may use; toy tensors lose much by waiting for a second one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def dem(tmp_path, monkeypatch):
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    with DagsterInstance.ephemeral() as instance:
        yield lambda **options: Dem(tmp_path, instance, **options)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_from_packed_rows_to_a_merged_model_that_loads(dem, method):
    graph = dem(method=method)
    graph.run_all()
    for domain in DOMAINS:
        difference = Difference(graph.lake.current("diff_vector", domain).local / "difference")
        assert difference.is_factored == (method == "lora")
    merged = graph.lake.current("merged_model").local
    weights = json.loads((graph.lake.current("domain_weights").local / "weights.json").read_text())
    assert sorted(weights["weights"]) == DOMAINS
    model, report = AutoModelForCausalLM.from_pretrained(merged / "model", output_loading_info=True)
    assert model.config.model_type == "mamba2" and not any(report.values())
    table = {row["candidate"]: row for row in weights["candidates"]}
    alone = min(table["only food"]["mean_nll"], table["only law"]["mean_nll"])
    assert alone < table["base"]["mean_nll"], "the difference is what was learnt"
    cost = {name: graph.lake.current(name).manifest.cost for name in ("joint_adapter", "domain_weights")}
    trained = sum(graph.lake.current("lora_adapter", domain).manifest.cost.tokens for domain in DOMAINS)
    assert table["joint"]["training_tokens"] == cost["joint_adapter"].tokens
    assert table["uniform"]["training_tokens"] == table["searched"]["training_tokens"] == trained
    assert 0 < table["searched"]["search_tokens"] < cost["domain_weights"].tokens == weights["all_tokens"]
    assert table["base"]["training_tokens"] == table["base"]["cpu_seconds"] == 0
    assert weights["chosen"] not in ("joint", "lora on validation")


def test_the_model_card_tells_where_the_model_comes_from_and_under_which_licences(dem):
    graph = dem()
    graph.run_all()
    merged = graph.lake.current("merged_model")
    card = (merged.local / "model" / "README.md").read_text(encoding="utf-8")
    assert "Some of the training text is synthetic" in card
    assert "| food | `CC BY 4.0` | 5 |" in card and "| law | `KOGL-1` | 5 |" in card
    for asset in ("diff_vector", "parquet_shards"):
        snapshot = graph.lake.current(asset, "law")
        assert f"| {asset} | law | {snapshot.content_hash[:12]} |" in card
    assert merged.manifest.summary["metadata"]["model_card"]["markdown"] == card


def test_another_domain_costs_its_own_adapter_a_search_and_a_merge_and_trains_no_other_again(dem):
    graph = dem()
    graph.run_all()
    before = graph.versions("lora_adapter", "diff_vector")
    graph.deliver("travel")
    for asset in (lora_adapter, diff_vector):
        for domain in [*DOMAINS, "travel"]:
            assert graph.run(asset, domain).success
    assert graph.versions("lora_adapter", "diff_vector") == before, "nothing was trained again"
    assert graph.run(domain_weights).success and graph.run(merged_model).success
    weights = json.loads((graph.lake.current("domain_weights").local / "weights.json").read_text())
    assert sorted(weights["weights"]) == [*DOMAINS, "travel"]
    candidates = {row["candidate"] for row in weights["candidates"]}
    assert "joint" not in candidates, "the control of two domains is not one of three"
    shown = graph.lake.current("domain_weights").manifest.summary["metadata"]
    assert "materialize it" in shown["joint_control"]

    graph.instance.delete_dynamic_partition("domain", "food")
    assert graph.run(domain_weights).success and graph.run(merged_model).success
    weights = json.loads((graph.lake.current("domain_weights").local / "weights.json").read_text())
    assert sorted(weights["weights"]) == ["law", "travel"]
    assert graph.versions("lora_adapter", "diff_vector") == before


def test_the_loss_curve_is_observed_while_it_trains_and_published_at_the_end(dem):
    graph = dem()
    result = graph.run(lora_adapter, "law")
    observed = [
        event.event_specific_data.asset_observation
        for event in result.all_events
        if event.event_type_value == "ASSET_OBSERVATION"
    ]
    assert observed and observed[-1].partition == "law"
    shown = {name: value.value for name, value in observed[-1].metadata.items()}
    assert shown["steps"] == 8 and shown["share_done"] == 1 and shown["tokens_per_second"] > 0
    assert shown["loss"].startswith("![Training loss](data:image/png;base64,")
    figures = graph.lake.current("lora_adapter", "law").manifest.summary["metadata"]
    assert figures["best_step"] in (4, 8) and figures["best_validation_loss"] > 0


def test_the_joint_adapter_sees_as_many_tokens_as_all_adapters_together_also_when_a_domain_stops_early(
    dem, monkeypatch
):
    budgets, train = [], Compute.train

    def watched(compute, job, **options):
        budgets.append(job.tokens)
        return train(compute, job, **options)

    monkeypatch.setattr(Compute, "train", watched)
    graph = dem(
        training={**TRAINING, "learning_rate": 0.5},
        early_stopping={"validate_every": 1, "patience": 1, "rows": 8},
    )
    graph.instance.add_dynamic_partitions("domain", ["absent"])
    assert all(graph.run(lora_adapter, domain).success for domain in DOMAINS)
    tokens = [graph.lake.current("lora_adapter", domain).manifest.cost.tokens for domain in DOMAINS]
    assert min(tokens) < 8 * 4 * TOY_LENGTH, "one of them stopped early"
    result = graph.run(joint_adapter)
    assert result.success
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"loss_finite": True, "every_domain_present": False}
    joint = graph.lake.current("joint_adapter").manifest
    assert budgets == [None, None, sum(tokens)], "the joint run ends by its tokens and not by its patience"
    assert sum(tokens) <= joint.cost.tokens < sum(tokens) + 4 * TOY_LENGTH
    assert joint.inputs["lora_adapter[law]"] == graph.lake.current("lora_adapter", "law").content_hash


def test_the_joint_adapter_leaves_out_a_domain_whose_adapter_saw_other_rows(dem):
    graph = dem()
    assert not graph.run(joint_adapter).success, "there is no adapter yet"
    assert all(graph.run(lora_adapter, domain).success for domain in DOMAINS)
    with graph.lake.stage("parquet_shards", "food") as staging:
        pack_toy_domain(graph.base, "food", staging.folder / "packed", sentences=100)
        inputs = {"tokenizer": TOKENIZER_HASH}
        graph.lake.commit(staging, asset="parquet_shards", domain="food", fingerprint="2", inputs=inputs)
    result = graph.run(joint_adapter)
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"loss_finite": True, "every_domain_present": False}
    of_law = graph.lake.current("lora_adapter", "law").manifest.cost.tokens
    joint = graph.lake.current("joint_adapter").manifest
    assert joint.cost.tokens == of_law and not [name for name in joint.inputs if "food" in name]


def test_a_joint_run_is_as_long_as_all_and_validated_as_often():
    config = LoraConfig(training=TRAINING, early_stopping={"validate_every": 4}).over_domains(5, 3841, 24)
    assert (config.training.steps, config.early_stopping.validate_every) == (41, 20)
    short = LoraConfig(early_stopping={"validate_every": 0}).over_domains(5, tokens=400, row_tokens=25)
    assert short.early_stopping.validate_every == 0
    assert (short.training.steps, short.training.warmup_steps) == (2, 2)


def test_a_domain_with_fewer_rows_than_a_batch_fails_with_the_cure(dem):
    graph = dem(training={**TRAINING, "batch_size": 5000})
    result = graph.run(lora_adapter, "law")
    failure = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    message = failure.error.message + (failure.error.cause.message if failure.error.cause else "")
    assert "law: " in message and "fewer than one batch of 5000" in message and "deliver more text" in message
    assert graph.lake.find("lora_adapter", "law") is None
