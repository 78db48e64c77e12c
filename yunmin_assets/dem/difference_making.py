"""Difference vectors are made here: from a LoRA adapter, or from a checkpoint trained whole.

What does not belong to the base is refused from the headers, before any tensor is read; a value that is not finite
is found while reading, and nothing is published. Both errors name the tensor.
"""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from yunmin_assets.dem.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_FILE
from yunmin_assets.dem.blocks import BlockReader, blocks, tensor_workers
from yunmin_assets.dem.deltas import DenseDelta, FactoredDelta
from yunmin_assets.dem.difference import (
    DENSE,
    DESCRIPTION_FILE,
    FACTORED,
    FORMAT,
    TENSORS_FILE,
    Difference,
    factor_names,
)
from yunmin_assets.dem.difference_statistics import measure
from yunmin_assets.dem.weight_files import (
    TensorFile,
    TensorSpec,
    WeightFiles,
    encode_head,
    raw_bytes,
    write_tensors,
)
from yunmin_assets.files import MissingInputError, new_folder
from yunmin_assets.language_model.tokenizer import load_tokenizer
from yunmin_assets.progress import Log, silent, track

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
    "use_qalora",
    "use_bdlora",
    "loftq_config",
    "corda_config",
    "lora_ga_config",
    "alora_invocation_tokens",
)
PLAIN_INITIALISATIONS = (None, True, False, "gaussian")
"""Others (PiSSA, OLoRA, LoftQ, …) change the base before training, so that B·A is not the difference to it."""


def diff_domain_model(base_dir: Path, trained_dir: Path, out_dir: Path, *, log: Log = silent) -> Difference:
    """The difference to the base of what `train_adapter` wrote: factored of an adapter, dense of a whole model.

    Raises:
        ValueError: See `diff_adapter` and `diff_checkpoint`.
    """
    is_adapter = (trained_dir / ADAPTER_CONFIG).is_file()
    return (diff_adapter if is_adapter else diff_checkpoint)(base_dir, trained_dir, out_dir, log=log)


def diff_adapter(base_dir: Path, adapter_dir: Path, out_dir: Path, *, log: Log = silent) -> Difference:
    """Turn a peft LoRA adapter into a factored difference vector.

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
    adapter = TensorFile(adapter_dir / ADAPTER_WEIGHTS)
    pairs = _adapter_pairs(adapter, base)
    fingerprint = _common_fingerprint(base, adapter_dir)
    keys = {
        factor: key
        for name, both in pairs.items()
        for factor, key in zip(factor_names(name), both, strict=True)
    }

    def statistics(name: str) -> dict[str, Any]:
        key_a, key_b = pairs[name]
        delta = FactoredDelta(adapter, key_a, key_b, scale, base.specs[name].shape, torch.float64)
        return {"scale": scale, "rank": adapter.specs[key_a].shape[0], **measure(base, name, delta)}

    with new_folder(out_dir) as part, tensor_workers() as pool:
        tensors = ((factor, _finite(adapter, key)) for factor, key in keys.items())
        write_tensors(
            part / TENSORS_FILE, tensors, {factor: adapter.specs[key] for factor, key in keys.items()}
        )
        measured = track(pool.map(statistics, pairs), log, "modules measured", len(pairs))
        _describe(part, FACTORED, fingerprint, zip(pairs, measured, strict=True))
    return Difference(out_dir)


def diff_checkpoint(base_dir: Path, tuned_dir: Path, out_dir: Path, *, log: Log = silent) -> Difference:
    """Keep the tensors of a trained model that differ from the base.

    Args:
        base_dir, tuned_dir: Model folders of one architecture, in safetensors.
        out_dir: Must be absent or empty.

    Raises:
        ValueError: Architecture, vocabulary, tensor names, shapes or dtypes differ (found before any tensor is
            read), a tensor that is not floating-point changed, or a value is not finite. Names the tensor.
    """
    base, tuned = WeightFiles(base_dir), WeightFiles(tuned_dir)
    _require_same_architecture(base, tuned)
    fingerprint = _common_fingerprint(base, tuned_dir)
    with new_folder(out_dir) as part, tensor_workers() as pool:
        changed = _write_changed(base, tuned, part / TENSORS_FILE, log)
        if not changed:
            raise ValueError(
                f"{tuned_dir} equals {base_dir}, so there is no difference: train it, or leave it out"
            )
        found = pool.map(partial(_measure_tuned, base, tuned), changed)
        measured = track(found, log, "tensors measured", len(changed))
        _describe(part, DENSE, fingerprint, zip(changed, measured, strict=True))
    return Difference(out_dir)


def _common_fingerprint(base: WeightFiles, trained_dir: Path) -> str:
    """The base's fingerprint; refuses what says that it was trained on another base (a foreign one says nothing)."""
    fingerprint = base.fingerprint()
    recorded = trained_dir / BASE_FILE
    if recorded.is_file() and json.loads(recorded.read_text()).get("base_fingerprint") != fingerprint:
        raise ValueError(
            f"what lies in {trained_dir} was trained on another base than {base.folder}, or by an older version: "
            "train it again from this base"
        )
    return fingerprint


def _adapter_scale(adapter_dir: Path) -> float:
    """alpha / rank, or alpha / √rank for rank-stabilised LoRA (arXiv 2312.03732)."""
    path = adapter_dir / ADAPTER_CONFIG
    if not path.is_file():
        raise MissingInputError(f"{adapter_dir} holds no {ADAPTER_CONFIG}: give the folder of a peft adapter")
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
    if config.get("init_lora_weights") not in PLAIN_INITIALISATIONS:
        raise ValueError(
            f"{path}: init_lora_weights is {config['init_lora_weights']}, which changed the base before training; "
            "merge that adapter with peft and use diff_checkpoint"
        )
    rank = config["r"]
    return config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)


def _adapter_pairs(adapter: TensorFile, base: WeightFiles) -> dict[str, tuple[str, str]]:
    """Base tensor → keys of its A and B; refuses what does not fit, from the headers alone."""
    specs = adapter.specs
    modules = {key.removesuffix(".lora_A.weight") for key in specs if key.endswith(".lora_A.weight")}
    expected = {f"{module}.lora_{side}.weight" for module in modules for side in "AB"}
    for key in sorted(specs.keys() ^ expected):
        raise ValueError(f"{adapter.path}: {key} has no partner or is not a plain LoRA matrix")
    pairs = {}
    for module in sorted(modules):
        name = module.removeprefix(PEFT_PREFIX) + ".weight"
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        if name not in base.specs:
            raise ValueError(
                f"the adapter in {adapter.path} adapts {name}, which {base.folder} does not have"
            )
        product = (specs[b].shape[0], specs[a].shape[1])
        if specs[a].shape[0] != specs[b].shape[1] or product != base.specs[name].shape:
            raise ValueError(
                f"tensor {name} is {base.specs[name].shape} in {base.folder}, but B·A of the adapter in "
                f"{adapter.path} is {specs[b].shape}·{specs[a].shape}: it was trained on another base"
            )
        pairs[name] = (a, b)
    return pairs


def _finite(adapter: TensorFile, key: str) -> torch.Tensor:
    tensor = adapter.read(key)
    if not torch.isfinite(tensor).all():
        raise _not_finite(key, adapter.path)
    return tensor


def _require_same_architecture(base: WeightFiles, tuned: WeightFiles) -> None:
    ours, theirs = (json.loads((files.folder / "config.json").read_text()) for files in (base, tuned))
    for key in COMPARED_CONFIG_KEYS:
        if ours.get(key) != theirs.get(key):
            raise ValueError(
                f"{key} is {ours.get(key)} in {base.folder} and {theirs.get(key)} in {tuned.folder}: "
                "a difference needs one architecture and one vocabulary"
            )
    if all((files.folder / "tokenizer.json").is_file() for files in (base, tuned)):
        own, other = (load_tokenizer(files.folder).get_vocab() for files in (base, tuned))
        if own != other:
            raise ValueError(
                f"{base.folder} and {tuned.folder} have different tokenizers: a difference needs one vocabulary"
            )
    for name in sorted(base.specs.keys() ^ tuned.specs.keys()):
        holder, other = (base, tuned) if name in base.specs else (tuned, base)
        raise ValueError(
            f"tensor {name} is in {holder.folder} but not in {other.folder}: a base must have the tensor names that "
            "transformers writes, which yunmin_assets.dem.base.take_over_base gives it"
        )
    trained_here = (tuned.folder / BASE_FILE).is_file()
    for name, spec in base.specs.items():
        found = tuned.specs[name]
        if spec.shape != found.shape:
            raise ValueError(
                f"tensor {name} is {spec.shape} in {base.folder}, but {found.shape} in {tuned.folder}"
            )
        if spec.dtype != found.dtype and not (trained_here and spec.is_floating and found.dtype == "F32"):
            raise ValueError(
                f"tensor {name} is {spec.dtype} in {base.folder}, but {found.dtype} in {tuned.folder}: save the "
                "tuned model in the base's dtype"
            )


def _write_changed(base: WeightFiles, tuned: WeightFiles, path: Path, log: Log) -> list[str]:
    """Copy the tuned tensors that differ from the base. The header leaves room for all: which do is known at last."""
    specs: dict[str, TensorSpec] = {}
    room = len(encode_head({name: tuned.specs[name] for name in base.specs}))
    with path.open("wb") as file:
        file.seek(room)
        for name in track(base.specs, log, "tensors compared", len(base.specs)):
            begin = file.tell()
            if not _copy(base, tuned, name, file):
                file.seek(begin)
            elif not base.specs[name].is_floating:
                raise ValueError(
                    f"tensor {name} is not floating-point and differs between {base.folder} and {tuned.folder}"
                )
            else:
                specs[name] = tuned.specs[name]
        file.truncate()
        file.seek(0)
        file.write(encode_head(specs, length=room))
    return list(specs)


def _copy(base: WeightFiles, tuned: WeightFiles, name: str, file: BinaryIO) -> bool:
    """Write a tuned tensor and say whether it differs from the base's."""
    before, after = BlockReader(base, name), BlockReader(tuned, name)
    differs = False
    for block in blocks(tuned.specs[name].shape):
        old, new = before.read(block), after.read(block)
        old_bytes, new_bytes = raw_bytes(old.to(new.dtype)), raw_bytes(new)
        differs = differs or not np.array_equal(old_bytes, new_bytes)
        file.write(new_bytes)
    return differs


def _measure_tuned(base: WeightFiles, tuned: WeightFiles, name: str) -> dict[str, Any]:
    statistics = measure(base, name, DenseDelta(tuned, name))
    if not np.isfinite(statistics["norm"]):
        raise _not_finite(name, tuned.folder)
    return statistics


def _not_finite(name: str, path: Path) -> ValueError:
    return ValueError(f"tensor {name} of {path} holds a NaN or an infinity: train that model again")


def _describe(
    folder: Path, kind: str, fingerprint: str, statistics: Iterable[tuple[str, Mapping[str, Any]]]
) -> None:
    description = {
        "format": FORMAT,
        "kind": kind,
        "holds": "tuned values" if kind == DENSE else "factors",  # for people
        "base_fingerprint": fingerprint,
        "tensors": dict(statistics),
    }
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
