"""The weights of a Hugging Face folder, one tensor at a time.

Reads `model.safetensors` or the shards that `model.safetensors.index.json` lists, and writes safetensors
files whose tensors never have to be in memory together. Format:
https://github.com/huggingface/safetensors#format (8 bytes little-endian header length, JSON header, tensor
bytes without gaps).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEADER_ALIGNMENT = 8  # the format's own rule, so that tensor bytes start aligned
METADATA = {"format": "pt"}  # what transformers expects to find

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorSpec:
    """What the header of a safetensors file says about a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return DTYPES[self.dtype].itemsize * torch.Size(self.shape).numel()

    @property
    def is_floating(self) -> bool:
        return DTYPES[self.dtype].is_floating_point


class WeightFiles:
    """The tensors of a model folder by name; only headers are read until a tensor is asked for."""

    def __init__(self, folder: Path):
        """Read the headers.

        Raises:
            FileNotFoundError: The folder holds no safetensors weights, or a shard is missing.
            ValueError: A tensor is of a dtype that is not handled (a quantised model).
        """
        self.folder = folder
        if (folder / INDEX_FILE).is_file():
            weight_map = json.loads((folder / INDEX_FILE).read_text())["weight_map"]
            self.files = sorted(set(weight_map.values()))
        elif (folder / SINGLE_FILE).is_file():
            self.files = [SINGLE_FILE]
        else:
            raise FileNotFoundError(
                f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}: convert the weights to safetensors"
            )
        self.by_file = {file: read_header(folder / file) for file in self.files}
        self.specs = {name: spec for specs in self.by_file.values() for name, spec in specs.items()}
        self._file_of = {name: file for file, specs in self.by_file.items() for name in specs}

    def read(self, name: str) -> torch.Tensor:
        """One tensor on the CPU, in its stored dtype."""
        with safe_open(self.folder / self._file_of[name], "pt") as file:
            return file.get_tensor(name)

    def sha256(self) -> str:
        """Hash of all tensors' names, dtypes, shapes and bytes; the split into files does not matter."""
        digest = hashlib.sha256()
        for name in sorted(self.specs):
            spec = self.specs[name]
            digest.update(f"{name} {spec.dtype} {list(spec.shape)}\n".encode())
            digest.update(raw_bytes(self.read(name)))
        return digest.hexdigest()


def read_header(path: Path) -> dict[str, TensorSpec]:
    """Name, dtype and shape of each tensor of a safetensors file, in the order of their bytes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{path}: tensor {name} has dtype {entry['dtype']}, handled are {', '.join(DTYPES)}"
            )
    ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {name: TensorSpec(entry["dtype"], tuple(entry["shape"])) for name, entry in ordered}


def write_tensors(
    path: Path, specs: Mapping[str, TensorSpec], tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Write a safetensors file tensor by tensor.

    Args:
        specs: Every tensor to come, in the order of writing.
        tensors: The same names in the same order; each is cast to its spec's dtype.
    """
    header: dict[str, object] = {"__metadata__": METADATA}
    begin = 0
    for name, spec in specs.items():
        header[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [begin, begin + spec.bytes],
        }
        begin += spec.bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % HEADER_ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for (name, spec), (given, tensor) in zip(specs.items(), tensors, strict=True):
            if given != name or tuple(tensor.shape) != spec.shape:
                raise ValueError(f"{path}: expected {name} {spec.shape}, got {given} {tuple(tensor.shape)}")
            file.write(raw_bytes(tensor.to(DTYPES[spec.dtype])))
        file.flush()
        os.fsync(file.fileno())


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a CPU tensor in row-major order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
