"""One tool, once, in a process of its own: `python -m benchmarks.merging_child TOOL KIND FOLDER`. `merging` starts it.

The folder holds `base`, and under the kind (`dense` or `adapters`) what is merged into it, one folder per domain. What
is timed begins after the imports and ends when every file of the output is on the disk (fsync), whether the tool itself
sees to that or not. There is no warm-up: a merge runs once.
"""

import argparse
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import measured, versions
from benchmarks.merging_data import PEFT_PREFIX, SCALE, WEIGHT_FILES
from benchmarks.merging_peers import merge_with_mergekit
from yunmin_assets.files import flush

WEIGHTS = {"domain-0": 0.4, "domain-1": 0.3, "domain-2": 0.2, "domain-3": 0.1}
"""Tenths, as people choose them: a hard case, because many sums lie in the middle between two bfloat16 numbers."""
DENSE, ADAPTERS = "dense", "adapters"
DIFFERENCES = "differences"
BLOCK = 8 << 20

Report = dict[str, Any]
Work = Callable[[str, Path, Path], None]
"""Takes kind, folder and the folder to write."""


@dataclass(frozen=True)
class Tool:
    """Attributes: what it is; what imports it and returns the work; the packages whose versions matter."""

    about: str
    prepare: Callable[[], Work]
    packages: tuple[str, ...]


def main() -> None:
    """Print a report as JSON, or which package is absent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("kind", choices=[DENSE, ADAPTERS])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        report = run(TOOLS[arguments.tool], arguments.kind, arguments.folder, output(**vars(arguments)))
    except ModuleNotFoundError as missing:
        report = {"absent": missing.name}
    print("\n" + json.dumps(report))


def run(tool: Tool, kind: str, folder: Path, out: Path) -> Report:
    """Let a tool do its work, and put it on the disk."""
    work = tool.prepare()

    def work_to_disk() -> None:
        work(kind, folder, out)
        for path in out.rglob("*"):
            flush(path)

    before = _transferred()
    _, cost = measured(work_to_disk)
    after = _transferred()
    moved = {
        name: after[key] - before[key] for name, key in (("bytes_read", "rchar"), ("bytes_written", "wchar"))
    }
    return {**asdict(cost), **moved, "versions": versions(tool.packages)}


def output(tool: str, kind: str, folder: Path) -> Path:
    """The folder that a tool writes: the merged model, or the differences that ours merges."""
    return folder / (f"{kind}-{DIFFERENCES}" if tool == DIFFERENCES else "merged")


def prepare_differences() -> Work:
    """Ours: what has to be made once before any merge."""
    from yunmin_assets.dem import diff_adapter, diff_checkpoint

    def make(kind: str, folder: Path, out: Path) -> None:
        for path in sorted((folder / kind).iterdir()):
            (diff_checkpoint if kind == DENSE else diff_adapter)(folder / "base", path, out / path.name)

    return make


def prepare_ours() -> Work:
    """Ours: the merge of the differences."""
    from yunmin_assets.dem import merge_checkpoints

    def merge(kind: str, folder: Path, out: Path) -> None:
        differences = output(DIFFERENCES, kind, folder)
        merge_checkpoints(folder / "base", {domain: differences / domain for domain in WEIGHTS}, WEIGHTS, out)

    return merge


def prepare_load_all() -> Work:
    """What one would write oneself: everything into memory, the sum in float32."""
    import torch
    from safetensors.torch import load_file, save_file

    def load(folder: Path) -> dict[str, torch.Tensor]:
        files = sorted(folder.glob(WEIGHT_FILES))
        return {name: tensor for file in files for name, tensor in load_file(file).items()}

    def change(tuned: dict[str, torch.Tensor], name: str, base: torch.Tensor) -> torch.Tensor | None:
        module = PEFT_PREFIX + name.removesuffix(".weight")
        if name in tuned:
            return tuned[name].float() - base
        if f"{module}.lora_A.weight" in tuned:
            return SCALE * (tuned[f"{module}.lora_B.weight"] @ tuned[f"{module}.lora_A.weight"])
        return None

    def merge(kind: str, folder: Path, out: Path) -> None:
        merged = load(folder / "base")
        models = {domain: load(folder / kind / domain) for domain in WEIGHTS}
        for name, tensor in merged.items():
            base = tensor.float()
            changes = {domain: change(model, name, base) for domain, model in models.items()}
            total = base.clone()
            for domain, difference in changes.items():
                if difference is not None:
                    total += WEIGHTS[domain] * difference
            merged[name] = total.to(tensor.dtype)
        out.mkdir()
        save_file(merged, out / "model.safetensors")

    return merge


def prepare_floor() -> Work:
    """No tool: the bytes that ours has to read and to write, and nothing else."""

    def copy(kind: str, folder: Path, out: Path) -> None:
        out.mkdir()
        inputs = [_blocks(path) for path in output(DIFFERENCES, kind, folder).rglob(WEIGHT_FILES)]
        others = itertools.zip_longest(*inputs)
        for path in sorted((folder / "base").glob(WEIGHT_FILES)):
            with (out / path.name).open("wb", buffering=0) as file:
                for block in _blocks(path):
                    _write_all(file.fileno(), block)
                    next(others, None)
        for _ in others:
            pass

    return copy


def _blocks(path: Path) -> Iterator[memoryview]:
    """The bytes of a file, block by block in one buffer."""
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        place = 0
        while count := os.preadv(file.fileno(), [buffer], place):
            place += count
            yield buffer[:count]


def _write_all(descriptor: int, block: memoryview) -> None:
    while block:
        block = block[os.write(descriptor, block) :]


def _transferred() -> dict[str, int]:
    """Bytes that this process has read and written by system calls; pages of mapped files are not among them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(count) for name, count in (line.split(": ") for line in lines)}


EXACT = {"dtype": "float32", "out_dtype": "bfloat16"}
TOOLS = {
    DIFFERENCES: Tool(
        "ours, diff_checkpoint or diff_adapter of all four: made once, before any merge",
        prepare_differences, ("torch",),
    ),
    "ours": Tool("merge_checkpoints of these differences", prepare_ours, ("torch",)),
    "mergekit": Tool(
        "mergekit, task_arithmetic, dtype bfloat16; lazy_unpickle, shards of 1 GB",
        lambda: merge_with_mergekit(WEIGHTS, {"dtype": "bfloat16"}), ("mergekit", "torch"),
    ),
    "mergekit-float32": Tool(
        "the same with dtype float32, out_dtype bfloat16, lora_merge_dtype float32: its most exact setting",
        lambda: merge_with_mergekit(WEIGHTS, EXACT, lora_merge_dtype="float32"), ("mergekit", "torch"),
    ),
    "load-all": Tool(
        "safetensors.load_file of everything, sum in float32, save_file", prepare_load_all, ("torch", "safetensors")
    ),
    "floor": Tool(
        "preadv of base and differences in blocks of 8 MiB, the base written as the result", prepare_floor, ()
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
