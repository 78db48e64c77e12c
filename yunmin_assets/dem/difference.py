"""Difference vectors dᵢ = Θᵢ − Θ: made from an adapter or a checkpoint, read back tensor by tensor.

A difference is a folder with `difference.safetensors` and `diff.json`:

- *factored*, from a LoRA adapter: `<module>.lora_A` [rank, in] and `<module>.lora_B` [out, rank], and in
  diff.json the scale, so that d = scale · B A;
- *dense*, from a fully trained checkpoint: the tensors under their own names in float32.

diff.json records the kind, the SHA-256 of the base weights and statistics per tensor. Made from another
architecture, vocabulary or shape, a difference is refused from the headers, before any tensor is read.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from yunmin_assets.dem.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE
from yunmin_assets.dem.weight_files import TensorSpec, WeightFiles, read_header, write_tensors
from yunmin_assets.files import new_folder
from yunmin_assets.progress import Log, silent, track

TENSORS_FILE = "difference.safetensors"
DESCRIPTION_FILE = "diff.json"
FORMAT = "yunmin-difference/1"
OUTLIER_DEVIATIONS = 3.0
COMPARED_CONFIG_KEYS = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "state_size")

PEFT_PREFIX = "base_model.model."
UNSUPPORTED_ADAPTER_OPTIONS = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
)


class Difference:
    """A difference folder; tensors are addressed by the base model's names."""

    def __init__(self, folder: Path):
        """Read the description and the header.

        Raises:
            FileNotFoundError: `folder` is not a difference.
            ValueError: It was written by another version.
        """
        if not (folder / DESCRIPTION_FILE).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {DESCRIPTION_FILE}: make it with diff_adapter or diff_checkpoint"
            )
        description = json.loads((folder / DESCRIPTION_FILE).read_text())
        if description.get("format") != FORMAT:
            raise ValueError(
                f"{folder} is of format {description.get('format')}, expected {FORMAT}: make it again"
            )
        self.folder = folder
        self.base_sha256: str = description["base_sha256"]
        self.is_factored: bool = description["kind"] == "factored"
        self.statistics: dict[str, dict[str, Any]] = description["tensors"]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor of the base that this difference changes."""
        return {name: tuple(entry["shape"]) for name, entry in self.statistics.items()}

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor, float]:
        """A [rank, in] and B [out, rank], float32, and the scale of one tensor of a factored difference."""
        module = name.removesuffix(".weight")
        with safe_open(self.folder / TENSORS_FILE, "pt") as file:
            a, b = file.get_tensor(f"{module}.lora_A"), file.get_tensor(f"{module}.lora_B")
        return a, b, self.statistics[name]["scale"]

    def dense(self, name: str) -> torch.Tensor:
        """The difference of one tensor in full, float32."""
        if self.is_factored:
            a, b, scale = self.factors(name)
            return scale * (b @ a)
        with safe_open(self.folder / TENSORS_FILE, "pt") as file:
            return file.get_tensor(name)

    def add_to(self, total: torch.Tensor, name: str, weight: float) -> None:
        """Add weight · d to a float32 tensor in place."""
        if self.is_factored:
            a, b, scale = self.factors(name)
            total.addmm_(b, a, alpha=weight * scale)
        else:
            total.add_(self.dense(name), alpha=weight)


def diff_domain_model(base_dir: Path, trained_dir: Path, out_dir: Path, *, log: Log = silent) -> Difference:
    """The difference to the base of what `train_adapter` wrote: factored of an adapter, dense of a whole model.

    Raises:
        ValueError: See `diff_adapter` and `diff_checkpoint`.
    """
    is_adapter = (trained_dir / ADAPTER_CONFIG).is_file()
    return (diff_adapter if is_adapter else diff_checkpoint)(base_dir, trained_dir, out_dir, log=log)


def diff_adapter(base_dir: Path, adapter_dir: Path, out_dir: Path, *, log: Log = silent) -> Difference:
    """Turn a peft LoRA adapter into a factored difference vector, without multiplying its factors out.

    Args:
        base_dir: Folder of the base model.
        adapter_dir: Folder with `adapter_config.json` and `adapter_model.safetensors`.
        out_dir: Must be absent or empty.

    Raises:
        ValueError: The adapter was trained on another base, uses more than plain LoRA, does not fit a tensor
            of the base, or holds a value that is not finite. Names the tensor.
    """
    base = WeightFiles(base_dir)
    scale = _adapter_scale(adapter_dir)
    pairs = _adapter_pairs(adapter_dir, base)
    base_hash = base.sha256()
    _require_trained_from(base_dir, base_hash, adapter_dir)
    tensors, statistics = {}, {}
    with safe_open(adapter_dir / ADAPTER_WEIGHTS, "pt") as file:
        for name, (key_a, key_b) in track(sorted(pairs.items()), log, "modules", len(pairs)):
            a, b = file.get_tensor(key_a).float(), file.get_tensor(key_b).float()
            _require_finite(a, key_a, adapter_dir)
            _require_finite(b, key_b, adapter_dir)
            module = name.removesuffix(".weight")
            tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"] = a.contiguous(), b.contiguous()
            statistics[name] = {
                "scale": scale,
                "rank": a.shape[0],
                **_statistics(scale * (b @ a), base.read(name)),
            }
    with new_folder(out_dir) as part:
        save_file(tensors, part / TENSORS_FILE)
        _describe(part, "factored", base_hash, statistics)
    return Difference(out_dir)


def diff_checkpoint(base_dir: Path, tuned_dir: Path, out_dir: Path, *, log: Log = silent) -> Difference:
    """Subtract a base model from a fully trained one, tensor by tensor, in float32.

    Args:
        base_dir, tuned_dir: Model folders of one architecture, in safetensors.
        out_dir: Must be absent or empty.

    Raises:
        ValueError: Architecture, vocabulary, tensor names or shapes differ (found before any tensor is read),
            a tensor that is not floating-point changed, or a value is not finite. Names the tensor.
    """
    base, tuned = WeightFiles(base_dir), WeightFiles(tuned_dir)
    _require_same_architecture(base, tuned)
    specs = {name: TensorSpec("F32", spec.shape) for name, spec in base.specs.items() if spec.is_floating}
    for name in base.specs.keys() - specs.keys():
        if not torch.equal(base.read(name), tuned.read(name)):
            raise ValueError(
                f"tensor {name} is not floating-point and differs between {base_dir} and {tuned_dir}"
            )
    base_hash = base.sha256()
    _require_trained_from(base_dir, base_hash, tuned_dir)
    statistics: dict[str, dict[str, Any]] = {}

    def differences() -> Iterator[tuple[str, torch.Tensor]]:
        for name in track(specs, log, "tensors", len(specs)):
            before = base.read(name)
            difference = tuned.read(name).float() - before.float()
            _require_finite(difference, name, tuned_dir)
            statistics[name] = _statistics(difference, before)
            yield name, difference

    with new_folder(out_dir) as part:
        write_tensors(part / TENSORS_FILE, specs, differences())
        _describe(part, "dense", base_hash, statistics)
    return Difference(out_dir)


def cosine_matrix(differences: Mapping[str, Path]) -> tuple[list[str], np.ndarray]:
    """Cosine of the angle between difference vectors.

    Returns:
        The names, sorted, and a symmetric float64 matrix [n, n]. Near 0: the domains change the model in
        unrelated directions; the row of a zero difference is NaN.
    """
    names = sorted(differences)
    vectors = [Difference(differences[name]) for name in names]
    products = np.zeros((len(names), len(names)))
    for tensor in sorted({tensor for vector in vectors for tensor in vector.shapes}):
        held = [i for i, vector in enumerate(vectors) if tensor in vector.shapes]
        stacked = torch.stack([vectors[i].dense(tensor).flatten() for i in held]).double()
        products[np.ix_(held, held)] += (stacked @ stacked.T).numpy()
    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore"):
        return names, products / np.outer(norms, norms)


def _require_trained_from(base_dir: Path, base_hash: str, trained_dir: Path) -> None:
    """Refuse an adapter or model that says it was trained on another base; a foreign one says nothing."""
    recorded = trained_dir / BASE_FILE
    if recorded.is_file() and json.loads(recorded.read_text())["base_sha256"] != base_hash:
        raise ValueError(f"what lies in {trained_dir} was trained on another base than {base_dir}")


def _adapter_scale(adapter_dir: Path) -> float:
    """alpha / rank, or alpha / √rank for rank-stabilised LoRA (arXiv 2312.03732)."""
    path = adapter_dir / ADAPTER_CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{adapter_dir} holds no {ADAPTER_CONFIG}: give the folder of a peft adapter")
    config = json.loads(path.read_text())
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{path}: peft_type is {config.get('peft_type')}, only LORA has a factored difference"
        )
    for option in UNSUPPORTED_ADAPTER_OPTIONS:
        if config.get(option):
            raise ValueError(f"{path}: {option} is set; merge that adapter with peft and use diff_checkpoint")
    if config.get("bias", "none") != "none":
        raise ValueError(
            f"{path}: bias is {config['bias']}; merge that adapter with peft and use diff_checkpoint"
        )
    rank = config["r"]
    return config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)


def _adapter_pairs(adapter_dir: Path, base: WeightFiles) -> dict[str, tuple[str, str]]:
    """Base tensor → keys of its A and B; refuses what does not fit, from the headers alone."""
    specs = read_header(adapter_dir / ADAPTER_WEIGHTS)
    modules = {key.removesuffix(".lora_A.weight") for key in specs if key.endswith(".lora_A.weight")}
    expected = {f"{module}.lora_{side}.weight" for module in modules for side in "AB"}
    for key in sorted(specs.keys() ^ expected):
        raise ValueError(
            f"{adapter_dir / ADAPTER_WEIGHTS}: {key} has no partner or is not a plain LoRA matrix"
        )
    pairs = {}
    for module in sorted(modules):
        name = module.removeprefix(PEFT_PREFIX) + ".weight"
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        if name not in base.specs:
            raise ValueError(f"the adapter in {adapter_dir} adapts {name}, which {base.folder} does not have")
        product = (specs[b].shape[0], specs[a].shape[1])
        if specs[a].shape[0] != specs[b].shape[1] or product != base.specs[name].shape:
            raise ValueError(
                f"tensor {name} is {base.specs[name].shape} in {base.folder}, but B·A of the adapter in "
                f"{adapter_dir} is {specs[b].shape}·{specs[a].shape}: it was trained on another base"
            )
        pairs[name] = (a, b)
    return pairs


def _require_same_architecture(base: WeightFiles, tuned: WeightFiles) -> None:
    ours, theirs = (json.loads((files.folder / "config.json").read_text()) for files in (base, tuned))
    for key in COMPARED_CONFIG_KEYS:
        if ours.get(key) != theirs.get(key):
            raise ValueError(
                f"{key} is {ours.get(key)} in {base.folder} and {theirs.get(key)} in {tuned.folder}: "
                "a difference needs one architecture and one vocabulary"
            )
    for name in sorted(base.specs.keys() ^ tuned.specs.keys()):
        holder, other = (base, tuned) if name in base.specs else (tuned, base)
        raise ValueError(
            f"tensor {name} is in {holder.folder} but not in {other.folder}: a base must have the tensor names that "
            "transformers writes, which yunmin_assets.dem.base.take_over_base gives it"
        )
    for name, spec in base.specs.items():
        if spec.shape != tuned.specs[name].shape:
            raise ValueError(
                f"tensor {name} is {spec.shape} in {base.folder}, "
                f"but {tuned.specs[name].shape} in {tuned.folder}"
            )


def _require_finite(tensor: torch.Tensor, name: str, folder: Path) -> None:
    if not torch.isfinite(tensor).all():
        raise ValueError(f"tensor {name} of {folder} holds a NaN or an infinity: train that model again")


def _statistics(difference: torch.Tensor, base: torch.Tensor) -> dict[str, Any]:
    """Norms, and the share of elements further than three standard deviations from the mean."""
    base_norm = base.float().norm().item()
    norm = difference.norm().item()
    deviation = (difference - difference.mean()).abs()
    spread = difference.std(correction=0)
    return {
        "shape": list(difference.shape),
        "norm": norm,
        "relative_norm": norm / base_norm if base_norm > 0 else None,
        "outlier_share": (deviation > OUTLIER_DEVIATIONS * spread).float().mean().item(),
    }


def _describe(folder: Path, kind: str, base_hash: str, statistics: dict[str, dict[str, Any]]) -> None:
    description = {"format": FORMAT, "kind": kind, "base_sha256": base_hash, "tensors": statistics}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
