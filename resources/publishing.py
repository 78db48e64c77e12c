"""From a computation to a published snapshot and a Dagster result: the one path every asset takes.

    yield from publish(step, compute)

computes only when the fingerprint (code version, configuration, upstream content hashes) differs from
that of the current snapshot, measures the cost, evaluates the checks, moves the pointer only when no
blocking check failed, and returns the metadata stored in the manifest, so that an unchanged asset
shows the same page in the UI as on the day it was computed.

An asset that fails is tried again by `RETRIES`, and goes on from its checkpoints, unless no retry would help.
"""

import contextlib
import functools
import hashlib
import json
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster
from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetObservation,
    AssetsDefinition,
    Backoff,
    DataVersion,
    Failure,
    Jitter,
    MaterializeResult,
    MetadataValue,
    RetryPolicy,
)
from dagster_shared.utils.warnings import PreviewWarning

from resources.lake import Lake
from resources.snapshot import Cost, Snapshot
from yunmin_assets.partitions import domain_partitions
from yunmin_assets.process_memory import PEAK_RESIDENT, memory_bytes
from yunmin_assets.progress import Log

GPU_POOL = "gpu"
IN_PODS = RetryPolicy(max_retries=6, delay=30, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
"""Pods are evicted, a store or a GPU fails. After 30, 90, 210 … 1,890 s, each ± 30 s at most: six evictions of one step
are survived, and an outage of nearly an hour."""

AT_HAND = RetryPolicy(max_retries=1, delay=1)
"""Where a person looks on: an error is shown at once, and a lost race for a pointer is mended."""

RETRIES = IN_PODS if os.environ.get("YUNMIN_EXECUTOR") == "kubernetes" else AT_HAND
"""Of every asset."""

HOPELESS = (ValueError, ArithmeticError, TypeError, LookupError, AttributeError)
"""Bad input, a wrong option, a loss that is not finite, an error in the program: the same again on a retry."""

_CLEAR_PEAK_MEMORY = "5"  # written to /proc/self/clear_refs, see proc(5)


class Markdown(str):
    """Text that the UI renders: tables, plots, samples."""


@dataclass(frozen=True)
class Check:
    """What a check found."""

    name: str
    passed: bool
    description: str
    blocking: bool = True
    values: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a computation tells besides the files it wrote."""

    summary: Mapping[str, Any]
    checks: tuple[Check, ...] = ()
    tokens: int = 0


@dataclass(frozen=True)
class Step:
    """An asset (of one domain) about to be computed."""

    context: AssetExecutionContext
    lake: Lake
    inputs: Mapping[str, str]
    """Name of each input → its content hash."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Every option the result depends on, as JSON values."""
    bytes_in: int = 0
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """What lasts until `publish` ends: the workspace, when the asset asks for one."""

    @property
    def asset(self) -> str:
        """Name of the asset, the same in Dagster and in the lake."""
        return self.context.asset_key.path[-1]

    @property
    def domain(self) -> str | None:
        """The partition, or None for an asset over all domains."""
        is_partitioned = self.context.assets_def.partitions_def is not None
        return self.context.partition_key if is_partitioned else None

    @property
    def code_version(self) -> str:
        """The version declared on the asset."""
        return self.context.assets_def.code_versions_by_key[self.context.asset_key] or ""

    @property
    def gpus(self) -> int:
        """GPUs that this step holds: all that are visible, when it runs in the pool of GPU steps."""
        if self.context.op_def.pool != GPU_POOL:
            return 0
        import torch

        return torch.cuda.device_count()

    @property
    def log(self) -> Log:
        """Where progress goes: the step's log."""
        name = f"{self.asset}[{self.domain}]" if self.domain else self.asset
        return lambda line: self.context.log.info(f"{name}: {line}")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides the result."""
        parts = [self.code_version, self.config, sorted(self.inputs.items())]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def workspace(self) -> Path:
        """A folder for checkpoints that outlives a killed run of exactly this computation."""
        return self._workspace

    @functools.cached_property
    def _workspace(self) -> Path:
        return self.opened.enter_context(self.lake.workspace(self.asset, self.domain, self.fingerprint))

    def observe(self, figures: Mapping[str, Any]) -> None:
        """Show on the asset's page how far a long computation is, while there is no snapshot yet."""
        shown = {
            key: MetadataValue.md(str(value)) if isinstance(value, Markdown) else value
            for key, value in figures.items()
        }
        self.context.log_event(
            AssetObservation(self.context.asset_key, partition=self.domain, metadata=shown)
        )


Computation = Callable[[Path], Outcome]
Events = Iterator[MaterializeResult | AssetCheckResult]


def asset(**options: Any) -> Callable[[Callable[..., Events]], AssetsDefinition]:
    """Dagster's `asset`, tried again when it fails, unless the same would come of it (`HOPELESS`, `LakeError`)."""

    def define(function: Callable[..., Events]) -> AssetsDefinition:
        @functools.wraps(function)
        def without_hopeless_retries(*arguments: Any, **resources: Any) -> Events:
            try:
                yield from function(*arguments, **resources)
            except HOPELESS as error:
                raise Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error

        return dagster.asset(retry_policy=RETRIES, **options)(without_hopeless_retries)

    return define


def publish(step: Step, compute: Computation) -> Events:
    """Compute, check and publish, or say that nothing changed.

    Args:
        step: the asset, its inputs and its options.
        compute: writes the files of the snapshot into the folder it is given.

    Raises:
        Failure: a blocking check failed; the old snapshot stays current.
    """
    current = step.lake.find_to_replace(step.asset, step.domain)
    if current is not None and current.manifest.fingerprint == step.fingerprint:
        step.context.log.debug("inputs, options and code are unchanged: nothing to publish")
        yield _result(current, published=False)
        return
    with step.opened, step.lake.stage(step.asset, step.domain) as staging:
        meter = _Meter()
        outcome = compute(staging.folder)
        cost = meter.read(gpus=step.gpus, bytes_in=step.bytes_in, tokens=outcome.tokens)
        failed = [check for check in outcome.checks if check.blocking and not check.passed]
        if failed:
            yield from (_check_result(step, check) for check in outcome.checks)
            raise Failure(
                "; ".join(f"{check.name}: {check.description}" for check in failed), allow_retries=False
            )
        snapshot = step.lake.commit(
            staging,
            asset=step.asset,
            domain=step.domain,
            fingerprint=step.fingerprint,
            code_version=step.code_version,
            inputs=step.inputs,
            cost=cost,
            summary=_stored(outcome),
        )
    step.lake.drop_workspace(step.asset, step.domain, step.fingerprint)
    yield _result(snapshot, published=True)


class _Meter:
    """CPU seconds, wall seconds and peak memory of this process since the meter was made."""

    def __init__(self) -> None:
        with contextlib.suppress(OSError):  # not Linux, or not allowed: the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK_MEMORY)
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()

    def read(self, *, gpus: int, bytes_in: int, tokens: int) -> Cost:
        wall = time.monotonic() - self._wall
        return Cost(
            wall_seconds=round(wall, 3),
            gpu_seconds=round(gpus * wall, 3),  # held, busy or not: that is what a GPU costs
            cpu_seconds=round(_cpu_seconds() - self._cpu, 3),
            peak_memory_bytes=_peak_memory_bytes(),
            bytes_in=bytes_in,
            tokens=tokens,
        )


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_memory_bytes() -> int:
    peak = memory_bytes(PEAK_RESIDENT)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if peak is None else peak


def _stored(outcome: Outcome) -> dict[str, Any]:
    """The summary as JSON, with what the UI renders kept apart from plain values."""
    values = {
        key: {"markdown": str(value)} if isinstance(value, Markdown) else value
        for key, value in outcome.summary.items()
    }
    checks = [
        {
            "name": check.name,
            "passed": check.passed,
            "description": check.description,
            "blocking": check.blocking,
            "values": dict(check.values),
        }
        for check in outcome.checks
    ]
    return {"metadata": values, "checks": checks}


def _result(snapshot: Snapshot, *, published: bool) -> MaterializeResult:
    manifest = snapshot.manifest
    stored = manifest.summary["metadata"]
    metadata: dict[str, Any] = {
        key: MetadataValue.md(value["markdown"]) if isinstance(value, dict) else value
        for key, value in stored.items()
    }
    metadata |= {
        "published": MetadataValue.bool(published),
        "snapshot": MetadataValue.path(str(snapshot.folder)),
        "bytes": snapshot.bytes,
        "wall_seconds": manifest.cost.wall_seconds,
        "cpu_seconds": manifest.cost.cpu_seconds,
        "peak_memory_bytes": manifest.cost.peak_memory_bytes,
    }
    rows = [file.rows for file in manifest.files if file.rows is not None]
    if (
        rows
    ):  # files beside the documents (logs, indexes) would count too, so the asset's own number comes first
        metadata["dagster/row_count"] = stored.get("documents", sum(rows))
    return MaterializeResult(
        metadata=metadata,
        data_version=DataVersion(snapshot.content_hash),
        check_results=[_as_check_result(Check(**check)) for check in manifest.summary["checks"]],
    )


def _as_check_result(check: Check) -> AssetCheckResult:
    return AssetCheckResult(
        check_name=check.name,
        passed=check.passed,
        severity=AssetCheckSeverity.ERROR if check.blocking else AssetCheckSeverity.WARN,
        description=check.description,
        metadata=dict(check.values),
    )


def _check_result(step: Step, check: Check) -> AssetCheckResult:
    return _as_check_result(check)._replace(asset_key=step.context.asset_key)


def check_specs(
    asset: str,
    blocking: Mapping[str, str],
    *,
    warning: Mapping[str, str] | None = None,
    partitioned: bool = True,
) -> list[AssetCheckSpec]:
    """Declare the checks that an asset evaluates on itself: name → what it holds the asset to.

    They run inside the asset: a separate check step would be a pod of its own. A failed blocking check
    stops the run and leaves the old snapshot current.
    """
    partitions_def = domain_partitions if partitioned else None
    with warnings.catch_warnings():
        # Without a partition, one domain's check would overwrite another's; Dagster calls it a preview.
        warnings.simplefilter("ignore", PreviewWarning)
        return [
            AssetCheckSpec(
                name,
                asset=asset,
                description=description,
                blocking=is_blocking,
                partitions_def=partitions_def,
            )
            for names, is_blocking in ((blocking, True), (warning or {}, False))
            for name, description in names.items()
        ]
