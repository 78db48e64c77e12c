"""Θ_D = Θ + Σ wᵢdᵢ (arXiv 2406.15570, equation 2), one tensor at a time.

The sum is taken in float32 in the order of the domain names and rounded once to the base's dtype. Tensors
that no difference touches are copied bit for bit; files, shards and header order are those of the base.
Memory: a few tensors, whatever the size of the model.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from yunmin_assets.dem.difference import Difference
from yunmin_assets.dem.weight_files import INDEX_FILE, WeightFiles, write_tensors
from yunmin_assets.files import new_folder
from yunmin_assets.language_model.tokenizer import copy_tokenizer
from yunmin_assets.progress import Log, Progress, silent

LARGEST_WEIGHT = 1e6  # far beyond any sensible weight, far below the overflow of float32
RECORD_FILE = "merge.json"
CONFIG_FILES = ("config.json", "generation_config.json", INDEX_FILE)


def merge_checkpoints(
    base_dir: Path,
    diffs: Mapping[str, Path],
    weights: Mapping[str, float],
    out_dir: Path,
    *,
    log: Log = silent,
) -> None:
    """Write the merged model, with the base's config and tokenizer, as a Hugging Face folder.

    Args:
        base_dir: Folder of the base model; one safetensors file or shards with an index.
        diffs: Difference folder of each domain, factored or dense.
        weights: Weight of each domain, the same keys.
        out_dir: Must be absent or empty. Also receives `merge.json` with weights and base hash.

    Raises:
        ValueError: The keys differ, a weight is not a sensible number, a difference was made from another
            base or does not fit it (all found before work begins), or the sum leaves the range of the dtype;
            names the tensor.
    """
    base = WeightFiles(base_dir)
    differences = open_differences(base, diffs)
    _require_matching_weights(diffs, weights)
    with new_folder(out_dir) as part, Progress(log, "tensors", total=len(base.specs)) as progress:
        for file in base.files:
            merged = _merged_tensors(base, file, differences, weights, progress)
            write_tensors(part / file, base.by_file[file], merged)
        for name in CONFIG_FILES:
            if (base_dir / name).is_file():
                shutil.copyfile(base_dir / name, part / name)
        copy_tokenizer(base_dir, part)
        record = {
            "base_sha256": next(iter(differences.values())).base_sha256,
            "weights": {domain: float(weights[domain]) for domain in sorted(weights)},
        }
        (part / RECORD_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def open_differences(base: WeightFiles, diffs: Mapping[str, Path]) -> dict[str, Difference]:
    """Open differences in the order of their names and make sure they belong to this base.

    Raises:
        ValueError: There is none, or one was made from another base or has a tensor that does not fit.
    """
    if not diffs:
        raise ValueError("no differences given: at least one domain is needed")
    differences = {domain: Difference(diffs[domain]) for domain in sorted(diffs)}
    for domain, difference in differences.items():
        for name, shape in difference.shapes.items():
            found = base.specs[name].shape if name in base.specs else None
            if found != shape:
                raise ValueError(
                    f"the difference of {domain!r} changes tensor {name} of shape {shape}; "
                    f"{base.folder} has {found}"
                )
    base_hash = base.sha256()
    for domain, difference in differences.items():
        if difference.base_sha256 != base_hash:
            raise ValueError(
                f"the difference of {domain!r} in {difference.folder} was made from another base than "
                f"{base.folder}: make it again from this one"
            )
    return differences


def _require_matching_weights(diffs: Mapping[str, Path], weights: Mapping[str, float]) -> None:
    missing, unknown = sorted(diffs.keys() - weights.keys()), sorted(weights.keys() - diffs.keys())
    if missing or unknown:
        raise ValueError(
            f"weights and differences must have the same names: missing {missing}, unknown {unknown}"
        )
    for domain, weight in weights.items():
        if not abs(weight) <= LARGEST_WEIGHT:  # also false for NaN
            raise ValueError(f"the weight of {domain!r} is {weight}, must lie within ±{LARGEST_WEIGHT:g}")


def _merged_tensors(
    base: WeightFiles,
    file: str,
    differences: Mapping[str, Difference],
    weights: Mapping[str, float],
    progress: Progress,
) -> Iterator[tuple[str, torch.Tensor]]:
    for name in base.by_file[file]:
        tensor = base.read(name)
        touching = {domain: d for domain, d in differences.items() if name in d.shapes}
        if touching:
            total = tensor.to(torch.float32, copy=True)
            for domain, difference in touching.items():
                difference.add_to(total, name, weights[domain])
            tensor = total.to(tensor.dtype)
            if not torch.isfinite(tensor).all():
                raise ValueError(f"tensor {name} of the merged model is not finite: lower the weights")
        yield name, tensor
        progress.advance()
