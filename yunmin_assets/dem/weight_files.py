"""The weights of a Hugging Face folder, read a block at a time into buffers of the caller's.

Format: https://github.com/huggingface/safetensors#format (8 bytes little-endian header length, JSON header, tensor
bytes without gaps). Opening reads headers only, and checks that every file is as long as its header says. Bytes
are read with `preadv`, never through a memory map, whose pages would count as memory of the process. Files stay
open as long as their object lives.
"""

import hashlib
import json
import math
import os
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import NonNegativeInt, TypeAdapter

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.files import MissingInputError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SUFFIX = ".safetensors"
LENGTH_BYTES = 8  # of the number before the header
HEADER_ALIGNMENT = 8  # the format's own rule, so that tensor bytes start aligned
METADATA = {"format": "pt"}  # what transformers expects to find
FINGERPRINT_BYTES = 4096
"""So much of each tensor takes part in the fingerprint."""

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
    offset: int = 0
    """Where its bytes begin, counted from the end of the header."""

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    @property
    def bytes(self) -> int:
        return self.itemsize * self.elements

    @property
    def is_floating(self) -> bool:
        return DTYPES[self.dtype].is_floating_point


class _Entry(ConfigModel):
    """One tensor in a header."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


_ENTRIES = TypeAdapter(dict[str, _Entry])


class TensorFile:
    """One safetensors file. `specs` are in the order of their bytes, `head` is all that comes before these."""

    def __init__(self, path: Path):
        """Read the header; the file is open from here until the object is gone.

        Raises:
            MissingInputError: There is no such file.
            ValueError: It is cut off or no safetensors file, or a tensor is of a dtype that is not handled (a
                quantised model).
        """
        if not path.is_file():
            raise MissingInputError(f"{path} is missing")
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        self.size, self.written = status.st_size, f"{status.st_size} {status.st_mtime_ns}"
        self.head = self._read_head()
        self.specs = self._read_specs()

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of a tensor from `offset` on.

        Raises:
            OSError: The file has become shorter since it was opened.
        """
        position = len(self.head) + self.specs[name].offset + offset
        while buffer:
            count = os.preadv(self._descriptor, [buffer], position)
            if count == 0:
                raise OSError(f"{self.path} ends at byte {position:,} within tensor {name}: it was cut off")
            buffer, position = buffer[count:], position + count

    def read(self, name: str) -> torch.Tensor:
        """One tensor in full, in its stored dtype."""
        spec = self.specs[name]
        content = torch.empty(spec.bytes, dtype=torch.uint8)
        self.read_into(name, 0, content.numpy().data)
        return content.view(DTYPES[spec.dtype]).reshape(spec.shape)

    def _read_head(self) -> bytes:
        length = int.from_bytes(os.pread(self._descriptor, LENGTH_BYTES, 0), "little")
        if not 0 < length <= self.size - LENGTH_BYTES:
            raise ValueError(f"{self.path} is cut off or no safetensors file: fetch it again")
        return os.pread(self._descriptor, LENGTH_BYTES + length, 0)

    def _read_entries(self) -> list[tuple[str, "_Entry"]]:
        """What the header says, in the order of the bytes."""
        try:
            header = json.loads(self.head[LENGTH_BYTES:])
            if isinstance(header, dict):
                header.pop("__metadata__", None)
            entries = _ENTRIES.validate_python(header)
        except ValueError as error:
            raise ValueError(f"{self.path} is no sound safetensors file: {error}") from error
        return sorted(entries.items(), key=lambda item: item[1].data_offsets)

    def _read_specs(self) -> dict[str, TensorSpec]:
        specs = {}
        position = 0
        for name, entry in self._read_entries():
            if entry.dtype not in DTYPES:
                handled = ", ".join(DTYPES)
                raise ValueError(f"{self.path}: tensor {name} has dtype {entry.dtype}, handled are {handled}")
            spec = TensorSpec(entry.dtype, entry.shape, position)
            position += spec.bytes
            if entry.data_offsets != (spec.offset, position):
                raise ValueError(f"{self.path}: the bytes of tensor {name} are not where its shape puts them")
            specs[name] = spec
        if len(self.head) + position != self.size:
            raise ValueError(
                f"{self.path} should have {len(self.head) + position:,} bytes by its header and has "
                f"{self.size:,}: fetch it again"
            )
        return specs


class WeightFiles:
    """The tensors of a model folder by name, whatever file they lie in."""

    def __init__(self, folder: Path):
        """Read the headers.

        Raises:
            MissingInputError: The folder holds no safetensors weights, or a shard is missing.
            ValueError: Two shards hold one tensor, or a file is not sound; see `TensorFile`.
        """
        self.folder = folder
        self.files = {name: TensorFile(folder / name) for name in _file_names(folder)}
        self._file_of: dict[str, TensorFile] = {}
        for file in self.files.values():
            for name in file.specs:
                if name in self._file_of:
                    raise ValueError(f"tensor {name} is in {self._file_of[name].path} and in {file.path}")
                self._file_of[name] = file
        self.specs = {name: file.specs[name] for name, file in self._file_of.items()}

    def read_into(self, name: str, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of a tensor from `offset` on; see `TensorFile`."""
        self._file_of[name].read_into(name, offset, buffer)

    def read(self, name: str) -> torch.Tensor:
        """One tensor in full on the CPU, in its stored dtype."""
        return self._file_of[name].read(name)

    def fingerprint(self) -> str:
        """Tells models apart in milliseconds; see `fingerprint`. The split into files does not matter."""
        return fingerprint(self)


def fingerprint(tensors: TensorFile | WeightFiles) -> str:
    """SHA-256 of all tensors' names, dtypes, shapes and first 4 KiB.

    Models that differ only further inside have the same: checksums in a difference are there for that.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors.specs):
        spec = tensors.specs[name]
        beginning = bytearray(min(spec.bytes, FINGERPRINT_BYTES))
        tensors.read_into(name, 0, memoryview(beginning))
        digest.update(f"{name} {spec.dtype} {list(spec.shape)}\n".encode())
        digest.update(beginning)
    return digest.hexdigest()


def _file_names(folder: Path) -> list[str]:
    """As transformers chooses: one file before an index."""
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        raise MissingInputError(
            f"{folder} holds neither {SINGLE_FILE} nor {INDEX_FILE}: convert the weights to safetensors"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index} has no weight_map of tensor names to file names: fetch it again"
        ) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(SUFFIX):
            raise ValueError(f"{index} lists {name!r}, which is not a safetensors file of that folder")
    if not names:
        raise ValueError(f"{index} lists no file: fetch it again")
    return names


def encode_head(specs: Mapping[str, TensorSpec], length: int = 0) -> bytes:
    """All that comes before the tensors' bytes, for tensors that follow each other in the order given.

    Args:
        length: Fill up with spaces, which the format allows, to this many bytes.
    """
    header: dict[str, object] = {"__metadata__": METADATA}
    begin = 0
    for name, spec in specs.items():
        end = begin + spec.bytes
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    aligned = encoded + b" " * (-len(encoded) % HEADER_ALIGNMENT)
    filled = aligned.ljust(length - LENGTH_BYTES)
    return len(filled).to_bytes(LENGTH_BYTES, "little") + filled


def write_tensors(
    path: Path, tensors: Iterable[tuple[str, torch.Tensor]], specs: Mapping[str, TensorSpec]
) -> None:
    """Write a safetensors file, one tensor in memory at a time.

    Args:
        tensors: Names and values, in the order of `specs` and as these say.
    """
    with path.open("wb") as file:
        file.write(encode_head(specs))
        for (name, spec), (given, tensor) in zip(specs.items(), tensors, strict=True):
            if (given, tensor.dtype, tensor.shape) != (name, DTYPES[spec.dtype], torch.Size(spec.shape)):
                raise ValueError(f"{path}: expected {name} {spec}, got {given} {tensor.dtype} {tensor.shape}")
            file.write(raw_bytes(tensor))


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a CPU tensor in row-major order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
