"""base_model, lora_adapter, diff_vector, domain_weights and merged_model: Θ_D = Θ + Σ wᵢ(Θᵢ − Θ); joint_adapter."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dagster import AssetExecutionContext

from resources.compute import Compute
from resources.lake import Lake
from resources.publishing import Check, Events, Markdown, Outcome, Step, asset, check_specs, publish
from resources.settings import Settings
from resources.snapshot import LakeError, Snapshot
from resources.upstream import (
    EVERY_DOMAIN_PRESENT,
    Upstream,
    find_made_from,
    over_all_domains,
    require_made_from,
)
from yunmin_assets.dem.config import LoraConfig, MergeConfig
from yunmin_assets.documents import split_path
from yunmin_assets.files import folder_hash
from yunmin_assets.language_model.config import TrainingConfig
from yunmin_assets.partitions import domain_partitions
from yunmin_assets.snapshot_files import (
    ADAPTER,
    DIFFERENCE,
    DOCUMENTS,
    MODEL,
    PACKED,
    TOKENIZER,
    TRAIN_FILE,
    WEIGHTS_FILE,
)

if TYPE_CHECKING:
    from yunmin_assets.language_model import TrainingResult
    from yunmin_assets.language_model.training import Report

OWNERS = ["team:yunmin-models"]
NO_JOINT_CONTROL = "joint_adapter is absent or not of these adapters: materialize it"


@asset(
    deps=["deduped_corpus", "tokenizer"],
    group_name="dem",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    pool="gpu",
    code_version="3",
    check_specs=check_specs(
        "base_model",
        {"loads_and_fits": "The model loads and its vocabulary is the tokenizer's."},
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def base_model(context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute) -> Events:
    """The model Θ every domain starts from: a given checkpoint, or a small Mamba trained here on all domains."""
    deduped, vocabulary = over_all_domains(context, lake, "deduped_corpus"), lake.current("tokenizer")
    config = settings.pipeline.base_model
    inputs = {"tokenizer": vocabulary.content_hash}
    options = {"base_model": config.model_dump(mode="json")}
    given = lake.fetch(config.path) if config.path else None
    if given is None:
        inputs |= deduped.hashes(TRAIN_FILE)
        options["pack"] = settings.pipeline.pack.fingerprint_options()
    else:
        inputs["base_model.path"] = folder_hash(given)
    step = Step(context, lake, inputs, options, bytes_in=deduped.bytes(TRAIN_FILE))
    files = [split_path(snapshot.local, "train") for snapshot in deduped.snapshots.values()]

    def compute_model(folder: Path) -> Outcome:
        from yunmin_assets.columnar.mixture import mixture_batches
        from yunmin_assets.dem.base import describe_base, take_over_base
        from yunmin_assets.language_model import train_from_scratch
        from yunmin_assets.language_model.summary import describe_training

        compute.prepare()
        tokenizer_dir, target = vocabulary.local / TOKENIZER, folder / MODEL
        summary: dict[str, object] = {}
        tokens = 0
        if given is not None:
            take_over_base(given, tokenizer_dir, target)
        else:
            work = step.workspace()
            batches = mixture_batches(
                files,
                tokenizer_dir,
                work / PACKED,
                settings.pack_config(vocabulary),
                batch_size=config.training.batch_size,
                seed=config.training.seed,
                log=step.log,
            )
            result = train_from_scratch(
                batches,
                config.model,
                config.training,
                tokenizer_dir,
                target,
                work / "checkpoints",
                log=step.log,
                report=_observation(step, config.training),
            )
            figures, _, plot = describe_training({"": result})
            summary, tokens = {**figures, "loss": Markdown(plot)}, result.tokens
        facts, fits = describe_base(target)
        checks = (Check("loads_and_fits", fits, f"vocabulary of {facts['vocab_size']:,}"), deduped.check())
        return Outcome({**facts, **summary}, checks, tokens=tokens)

    yield from publish(step, compute_model)


@asset(
    partitions_def=domain_partitions,
    deps=["parquet_shards", "base_model"],
    group_name="dem",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    pool="gpu",
    code_version="3",
    check_specs=check_specs("lora_adapter", {"loss_finite": "Every training loss is a finite number."}),
)
def lora_adapter(context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute) -> Events:
    """The base model's LoRA adapter for one domain (or, by `method: full`, a whole model), from its packed rows."""
    shards, base = lake.current("parquet_shards", context.partition_key), lake.current("base_model")
    if shards.manifest.inputs["tokenizer"] != base.manifest.inputs["tokenizer"]:
        raise LakeError(
            f"parquet_shards[{context.partition_key}] has another tokenizer: materialize it again"
        )
    config = settings.pipeline.lora_adapter
    inputs = {"parquet_shards": shards.content_hash, "base_model": base.content_hash}
    step = Step(context, lake, inputs, config.model_dump(mode="json"), bytes_in=shards.bytes)
    snapshots = {context.partition_key: shards}
    yield from publish(step, lambda folder: _trained(step, compute, base, snapshots, config, folder))


@asset(
    deps=["lora_adapter", "parquet_shards", "base_model"],
    group_name="dem",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    pool="gpu",
    code_version="3",
    check_specs=check_specs(
        "joint_adapter",
        {"loss_finite": "Every training loss is a finite number."},
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def joint_adapter(context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute) -> Events:
    """The control: one adapter trained on the rows of all domains mixed, on as many tokens as all of theirs."""
    base = lake.current("base_model")
    adapters, shards = _adapters_and_rows(context, lake, base)
    tokens = sum(adapter.manifest.cost.tokens for adapter in adapters.snapshots.values())
    config = settings.pipeline.lora_adapter
    inputs = {"base_model": base.content_hash, **adapters.hashes(), **_hashes("parquet_shards", shards)}
    options = {"lora_adapter": config.model_dump(mode="json"), "tokens": tokens}
    bytes_in = sum(snapshot.bytes for snapshot in shards.values())
    step = Step(context, lake, inputs, options, bytes_in=bytes_in)

    def train(folder: Path) -> Outcome:
        from yunmin_assets.columnar import PackManifest

        row_tokens = PackManifest.read(next(iter(shards.values())).local / PACKED / "train").seq_len
        joint = config.over_domains(len(shards), tokens, row_tokens)
        outcome = _trained(step, compute, base, shards, joint, folder, tokens=tokens)
        return replace(outcome, checks=(*outcome.checks, adapters.check()))

    yield from publish(step, train)


@asset(
    partitions_def=domain_partitions,
    deps=["lora_adapter", "base_model"],
    group_name="dem",
    kinds={"safetensors"},
    owners=OWNERS,
    code_version="2",
    check_specs=check_specs("diff_vector", {"weights_finite": "Every value of the difference is finite."}),
)
def diff_vector(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """What a domain's training changes in the base: the two LoRA factors of each module, or every parameter."""
    adapter, base = lake.current("lora_adapter", context.partition_key), lake.current("base_model")
    require_made_from(adapter, "base_model", base.content_hash)
    inputs = {"lora_adapter": adapter.content_hash, "base_model": base.content_hash}
    step = Step(context, lake, inputs, bytes_in=adapter.bytes)

    def compute(folder: Path) -> Outcome:
        from yunmin_assets.dem import diff_domain_model
        from yunmin_assets.dem.summary import describe_difference

        difference = diff_domain_model(
            base.local / MODEL, adapter.local / ADAPTER, folder / DIFFERENCE, log=step.log
        )
        figures, is_finite, rendered = describe_difference(difference)
        summary = {**figures, **{name: Markdown(text) for name, text in rendered.items()}}
        return Outcome(summary, (Check("weights_finite", is_finite, f"{figures['tensors']} tensors"),))

    yield from publish(step, compute)


@asset(
    deps=["base_model", "diff_vector", "lora_adapter", "joint_adapter", "parquet_shards"],
    group_name="dem",
    kinds={"pytorch"},
    owners=OWNERS,
    pool="gpu",
    code_version="2",
    check_specs=check_specs(
        "domain_weights",
        {"weights_finite": "Every weight is a finite number."},
        warning=EVERY_DOMAIN_PRESENT,
        partitioned=False,
    ),
)
def domain_weights(
    context: AssetExecutionContext, lake: Lake, settings: Settings, compute: Compute
) -> Events:
    """The weight of each domain's difference, searched on validation rows and compared with simple choices."""
    base = lake.current("base_model")
    adapters, shards = _adapters_and_rows(context, lake, base)
    hashes = {domain: adapter.content_hash for domain, adapter in adapters.snapshots.items()}
    differences = over_all_domains(
        context, lake, "diff_vector", made_from=lambda domain: ("lora_adapter", hashes.get(domain))
    )
    shards = {domain: shards[domain] for domain in differences.snapshots}
    config = settings.pipeline.domain_weights
    taking_part = {name: value for name, value in adapters.hashes().items() if _domain_of(name) in shards}
    joint = find_made_from(lake, "joint_adapter", taking_part) if config.controls else None
    if config.controls and joint is None:
        context.log.warning(f"{NO_JOINT_CONTROL}: going on without")
    inputs = {
        "base_model": base.content_hash,
        "joint_adapter": joint.content_hash if joint else "",
        **differences.hashes(),
        **_hashes("parquet_shards", shards),
    }
    options = {
        "domain_weights": config.model_dump(mode="json"),
        "lora_adapter": settings.pipeline.lora_adapter.model_dump(mode="json"),
    }
    step = Step(context, lake, inputs, options, bytes_in=base.bytes + differences.bytes())

    def search(folder: Path) -> Outcome:
        from yunmin_assets.columnar import PackedDataset
        from yunmin_assets.dem import Spent, diff_domain_model, search_weights
        from yunmin_assets.dem.summary import describe_search, weights_are_finite, write_search

        def spent(snapshot: Snapshot) -> Spent:
            return Spent(snapshot.manifest.cost.tokens, snapshot.manifest.cost.cpu_seconds)

        compute.prepare()
        folders, work = _difference_folders(differences.snapshots), step.workspace()
        joint_difference = None
        if joint is not None:
            joint_difference = work / "joint.tmp"  # made anew by each attempt: no checkpoint
            shutil.rmtree(joint_difference, ignore_errors=True)
            diff_domain_model(base.local / MODEL, joint.local / ADAPTER, joint_difference, log=step.log)
        found = search_weights(
            base.local / MODEL,
            folders,
            {
                domain: PackedDataset(
                    snapshot.local / PACKED / "validation", batch_size=config.batch_size, shuffle=False
                )
                for domain, snapshot in shards.items()
            },
            config,
            training_costs={domain: spent(adapters.snapshots[domain]) for domain in folders},
            joint=joint_difference,
            joint_cost=spent(joint) if joint else None,
            control=settings.pipeline.lora_adapter,
            work_dir=work / "search",
            log=step.log,
        )
        write_search(found, folder / WEIGHTS_FILE)
        figures, rendered = describe_search(found, base.local / MODEL, folders)
        checks = (Check("weights_finite", weights_are_finite(found), f"{found.chosen}"), differences.check())
        summary = {**figures, **{name: Markdown(text) for name, text in rendered.items()}}
        if config.controls:
            summary["joint_control"] = NO_JOINT_CONTROL if joint is None else "of exactly these adapters"
        return Outcome(summary, checks, tokens=found.all_tokens)

    yield from publish(step, search)


@asset(
    deps=["base_model", "diff_vector", "domain_weights", "parquet_shards"],
    group_name="dem",
    kinds={"huggingface", "safetensors"},
    owners=OWNERS,
    code_version="2",
    check_specs=check_specs(
        "merged_model",
        {"loads_and_fits": "The model loads and its vocabulary is the tokenizer's."},
        partitioned=False,
    ),
)
def merged_model(context: AssetExecutionContext, lake: Lake, settings: Settings) -> Events:
    """Base plus weighted differences, as a checkpoint that `AutoModelForCausalLM.from_pretrained` loads."""
    base, searched = lake.current("base_model"), lake.current("domain_weights")
    require_made_from(searched, "base_model", base.content_hash)
    search = json.loads((searched.local / WEIGHTS_FILE).read_text(encoding="utf-8"))
    weights = search["weights"]
    differences = {domain: lake.current("diff_vector", domain) for domain in weights}
    shards = {domain: lake.current("parquet_shards", domain) for domain in weights}
    for name, snapshots in (("diff_vector", differences), ("parquet_shards", shards)):
        for domain, snapshot in snapshots.items():
            require_made_from(searched, f"{name}[{domain}]", snapshot.content_hash)
    inputs = {
        "base_model": base.content_hash,
        "domain_weights": searched.content_hash,
        **_hashes("diff_vector", differences),
        **_hashes("parquet_shards", shards),
    }
    config, given_base = settings.pipeline.merged_model, settings.pipeline.base_model.path
    name = PurePosixPath(given_base).name if given_base else "A small Mamba trained from scratch"
    options = {**config.model_dump(mode="json"), "name": name}
    bytes_in = base.bytes + sum(item.bytes for item in differences.values())
    step = Step(context, lake, inputs, options, bytes_in=bytes_in)

    def merge(folder: Path) -> Outcome:
        from yunmin_assets.dem import merge_checkpoints
        from yunmin_assets.dem.base import describe_base
        from yunmin_assets.dem.model_card import CARD_FILE
        from yunmin_assets.dem.summary import describe_merge, mean_weights

        result = merge_checkpoints(
            base.local / MODEL,
            _difference_folders(differences),
            weights,
            folder / MODEL,
            config=config,
            work_dir=step.workspace() / "merge",
            log=step.log,
        )
        facts, fits = describe_base(folder / MODEL)
        means = mean_weights(weights)
        card = _model_card(name, base, facts, differences, shards, means, config, search["chosen"])
        (folder / MODEL / CARD_FILE).write_text(card, encoding="utf-8")
        figures = {f"weight {domain}": weight for domain, weight in means.items()}
        loads_and_fits = Check("loads_and_fits", fits, f"vocabulary of {facts['vocab_size']:,}")
        shown = {**facts, **describe_merge(result), **figures, "model_card": Markdown(card)}
        return Outcome(shown, (loads_and_fits,))

    yield from publish(step, merge)


def _adapters_and_rows(
    context: AssetExecutionContext, lake: Lake, base: Snapshot
) -> tuple[Upstream, dict[str, Snapshot]]:
    """The adapters of all domains that were trained from this base on the domain's current rows, and these rows."""
    tokenizer = ("tokenizer", base.manifest.inputs["tokenizer"])
    rows = over_all_domains(context, lake, "parquet_shards", made_from=lambda _: tokenizer).snapshots
    adapters = over_all_domains(
        context,
        lake,
        "lora_adapter",
        made_from=lambda domain: ("parquet_shards", rows[domain].content_hash if domain in rows else None),
    )
    for adapter in adapters.snapshots.values():
        require_made_from(adapter, "base_model", base.content_hash)
    return adapters, {domain: rows[domain] for domain in adapters.snapshots}


def _domain_of(input_name: str) -> str:
    """`lora_adapter[law]` → `law`."""
    return input_name.partition("[")[2].rstrip("]")


def _hashes(asset_name: str, snapshots: Mapping[str, Snapshot]) -> dict[str, str]:
    return {f"{asset_name}[{domain}]": snapshot.content_hash for domain, snapshot in snapshots.items()}


def _trained(
    step: Step,
    compute: Compute,
    base: Snapshot,
    shards: Mapping[str, Snapshot],
    config: LoraConfig,
    folder: Path,
    *,
    tokens: int | None = None,
) -> Outcome:
    """Train on the rows of some domains, with the loss curve on the asset's page while it grows."""
    from yunmin_assets.dem import AdapterJob
    from yunmin_assets.language_model.summary import describe_training

    job = AdapterJob(
        base=base.local / MODEL,
        train={domain: snapshot.local / PACKED / "train" for domain, snapshot in shards.items()},
        validation={domain: snapshot.local / PACKED / "validation" for domain, snapshot in shards.items()},
        config=config,
        tokens=tokens,
        out=folder / ADAPTER,
        checkpoints=step.workspace() / "checkpoints",
    )
    result = compute.train(job, log=step.log, report=_observation(step, config.training))
    figures, is_finite, plot = describe_training({"": result})
    checks = (Check("loss_finite", is_finite, "all losses are finite"),)
    return Outcome({**figures, "loss": Markdown(plot)}, checks, tokens=result.tokens)


def _observation(step: Step, training: TrainingConfig) -> "Report":
    """What shows the loss curve of a run that goes on."""
    from yunmin_assets.language_model.summary import describe_progress

    def report(result: "TrainingResult") -> None:
        figures, plot = describe_progress(result, training.steps)
        step.observe({**figures, "loss": Markdown(plot)})

    return report


def _difference_folders(snapshots: Mapping[str, Snapshot]) -> dict[str, Path]:
    return {domain: snapshot.local / DIFFERENCE for domain, snapshot in snapshots.items()}


def _model_card(
    name: str,
    base: Snapshot,
    facts: Mapping[str, int | str],
    differences: Mapping[str, Snapshot],
    shards: Mapping[str, Snapshot],
    weights: Mapping[str, float],
    config: MergeConfig,
    chosen: str,
) -> str:
    from yunmin_assets.dem.model_card import MergedBase, MergedDomain, describe_training_text, model_card

    made_from = MergedBase(name, str(facts["architecture"]), int(facts["parameters"]), base.content_hash)
    domains = [
        MergedDomain(
            domain,
            weights[domain],
            describe_training_text(sorted((shards[domain].local / DOCUMENTS).glob("*.parquet"))),
            {"parquet_shards": shards[domain].content_hash, "diff_vector": differences[domain].content_hash},
        )
        for domain in weights
    ]
    return model_card(made_from, domains, config, chosen)
