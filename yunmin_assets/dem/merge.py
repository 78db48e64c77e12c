"""Θ_D = Θ + Σ wᵢdᵢ (arXiv 2406.15570, equation 2), streamed from folder to folder.

Sums are taken in float32 for 16-bit models and in float64 for others, in the order of the domain names, and rounded
once to the base's dtype. Tensors that no difference touches are copied bit for bit; files, headers and order are those
of the base. On the way every tensor that a difference touches is compared, by its checksum, with the one that the
difference was made from, and everything that is written is seen to be finite.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from yunmin_assets.dem.config import MergeConfig
from yunmin_assets.dem.difference import DESCRIPTION_FILE, Difference, Weight, open_differences
from yunmin_assets.dem.merge_methods import require_usable_weights
from yunmin_assets.dem.merged_shards import ShardMerge, weight_of
from yunmin_assets.dem.weight_files import INDEX_FILE, TensorFile, WeightFiles
from yunmin_assets.files import flush, locked, new_folder
from yunmin_assets.language_model.tokenizer import copy_tokenizer
from yunmin_assets.progress import Log, Progress, silent

LARGEST_WEIGHT = 1e6  # far beyond any sensible weight, far below the overflow of float32
RECORD_FILE = "merge.json"
CONFIG_FILES = ("config.json", "generation_config.json", INDEX_FILE)
DEFAULT = MergeConfig()
IDENTITY_CHARACTERS = 16
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class MergeResult:
    """What a merge did."""

    parameters: int
    """Elements of floating-point tensors in the merged model."""
    tensors: int
    changed_tensors: int
    shards: int
    resumed_shards: int
    """Shards that a killed merge had finished."""
    bytes_read: int
    bytes_written: int
    seconds: float


def merge_checkpoints(
    base_dir: Path,
    diffs: Mapping[str, Path],
    weights: Mapping[str, Weight],
    out_dir: Path,
    *,
    config: MergeConfig = DEFAULT,
    work_dir: Path | None = None,
    log: Log = silent,
) -> MergeResult:
    """Write the merged model, with the base's config and tokenizer, as a Hugging Face folder.

    Tensors are merged by several threads at once; until this returns, PyTorch computes with one thread per operation.

    Args:
        base_dir: Folder of the base model; one safetensors file or shards with an index.
        diffs: Difference folder of each domain, factored or dense.
        weights: Weight of each domain, the same keys: one number, or one for each tensor that its difference changes.
        out_dir: Must be absent or empty; appears when the model is whole. Also receives `merge.json` with weights,
            method and the base's fingerprint.
        config: Another method than the sum.
        work_dir: Where finished shards are kept until the model is whole, so that after a kill the same merge goes on
            behind them; those of merges that were given up stay until somebody removes the folder. May be on another
            file system than `out_dir`.

    Raises:
        ValueError: The keys differ, a weight is not a sensible number, a difference was made from another base or does
            not fit it (all found before work begins), a tensor of the base is not the one that a difference was made
            from, or the result is not finite; names the tensor.
        FileExistsError, RuntimeError: `out_dir` is not free; see `new_folder`.
    """
    started = time.monotonic()
    base = WeightFiles(base_dir)
    differences = open_differences(base, diffs)
    _require_usable_weights(differences, weights, config)
    merge = ShardMerge(base, differences, weights, config)
    record = _record(base, differences, weights, config)
    with _workshop(work_dir, record, base, differences) as work, new_folder(out_dir) as part:
        finished = {name for name in base.files if work is not None and (work / name).exists()}
        remaining = [file for name, file in base.files.items() if name not in finished]
        total = sum(file.size for file in remaining)
        with Progress(log, "MB", total=total // MEGABYTE) as progress:
            written = _ByteCount(progress)
            for file in remaining:
                merge.write(file, (work or part) / file.path.name, written.add)
        if work is not None:
            for name in base.files:
                _place(work / name, part / name)
        _copy_beside(base_dir, part)
        (part / RECORD_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return MergeResult(
        parameters=sum(spec.elements for spec in base.specs.values() if spec.is_floating),
        tensors=len(base.specs),
        changed_tensors=len({name for difference in differences.values() for name in difference.shapes}),
        shards=len(base.files),
        resumed_shards=len(finished),
        bytes_read=sum(_bytes_to_read(file, differences) for file in remaining),
        bytes_written=total,
        seconds=time.monotonic() - started,
    )


def _require_usable_weights(
    differences: Mapping[str, Difference], weights: Mapping[str, Weight], config: MergeConfig
) -> None:
    _require_same_names(differences, weights, "differences")
    for domain, weight in weights.items():
        named = weight if isinstance(weight, Mapping) else {"": weight}
        if isinstance(weight, Mapping):
            _require_same_names(differences[domain].shapes, weight, f"tensors of {domain!r}")
        for name, value in named.items():
            if not abs(value) <= LARGEST_WEIGHT:  # also false for NaN
                place = f"{domain!r} for tensor {name}" if name else f"{domain!r}"
                raise ValueError(f"the weight of {place} is {value}, must lie within ±{LARGEST_WEIGHT:g}")
    for name in sorted({name for difference in differences.values() for name in difference.shapes}):
        touching = [domain for domain, difference in differences.items() if name in difference.shapes]
        require_usable_weights(
            config, len(differences), [weight_of(weights[domain], name) for domain in touching], name
        )


def _require_same_names(expected: Mapping[str, Any], given: Mapping[str, Any], what: str) -> None:
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"weights and {what} must have the same names: missing {missing}, unknown {unknown}")


def _record(
    base: WeightFiles,
    differences: Mapping[str, Difference],
    weights: Mapping[str, Weight],
    config: MergeConfig,
) -> dict[str, Any]:
    def plain(weight: Weight) -> float | dict[str, float]:
        if isinstance(weight, Mapping):
            return {name: float(value) for name, value in sorted(weight.items())}
        return float(weight)

    return {
        "base_fingerprint": base.fingerprint(),
        "method": config.method,
        **({"density": config.kept_share, "seed": config.seed} if config.method in ("ties", "dare") else {}),
        "weights": {domain: plain(weights[domain]) for domain in differences},
    }


@contextmanager
def _workshop(
    work_dir: Path | None, record: dict[str, Any], base: WeightFiles, differences: Mapping[str, Difference]
) -> Iterator[Path | None]:
    """The folder in `work_dir` where shards of this very merge are kept; removed once it is done."""
    if work_dir is None:
        yield None
        return
    digest = hashlib.sha256(json.dumps(record).encode())
    for difference in differences.values():
        digest.update((difference.folder / DESCRIPTION_FILE).read_bytes())
    # Finished shards are not compared with the base again, so files that were written anew begin a new merge.
    for file in (*base.files.values(), *(difference.file for difference in differences.values())):
        digest.update(file.path.name.encode() + file.head + file.written.encode())
    folder = work_dir / f"merge-{digest.hexdigest()[:IDENTITY_CHARACTERS]}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        yield folder
        shutil.rmtree(folder)


def _bytes_to_read(file: TensorFile, differences: Mapping[str, Difference]) -> int:
    return file.size + sum(
        difference.stored_bytes(name)
        for difference in differences.values()
        for name in file.specs.keys() & difference.shapes.keys()
    )


class _ByteCount:
    """Bytes that several threads write, on their way to a progress in megabytes."""

    def __init__(self, progress: Progress):
        self._progress, self._bytes, self._lock = progress, 0, Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._progress.advance(self._bytes // MEGABYTE - self._progress.done)


def _place(file: Path, target: Path) -> None:
    """Let a file appear under a second name, or copy it where that is on another file system."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
        flush(target)


def _copy_beside(base_dir: Path, folder: Path) -> None:
    """What belongs to a model beside its weights."""
    for name in CONFIG_FILES:
        if (base_dir / name).is_file():
            shutil.copyfile(base_dir / name, folder / name)
    copy_tokenizer(base_dir, folder)
