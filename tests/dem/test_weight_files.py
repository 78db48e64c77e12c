"""Tensors are read as safetensors reads them, and a folder that is not sound is refused by the name of the file."""

import gc
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from yunmin_assets.dem.blocks import BlockReader, blocks, columns
from yunmin_assets.dem.weight_files import (
    DTYPES,
    TensorFile,
    TensorSpec,
    WeightFiles,
    encode_head,
    write_tensors,
)

SHAPES = st.lists(st.integers(0, 7), max_size=3).map(tuple)
BLOCK_SIZES = st.integers(1, 40)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size(shape).numel() * dtype.itemsize
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)


def save_sharded(tensors: dict[str, torch.Tensor], folder: Path, shards: int) -> Path:
    folder.mkdir()
    names = sorted(tensors)
    weight_map = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, dtype=st.sampled_from(list(DTYPES.values())), size=BLOCK_SIZES, seed=st.integers(0, 99))
def test_every_element_is_read_once_in_blocks_and_in_full(shape, dtype, size, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "a.safetensors"
    tensors = {"first": random_tensor((3,), torch.uint8, 1), "second": random_tensor(shape, dtype, seed)}
    save_file(tensors, path)
    file = TensorFile(path)
    assert all(same_bits(file.read(name), load_file(path)[name]) for name in tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yunmin_assets.dem.blocks.BLOCK_ELEMENTS", size)
        cut = list(blocks(shape))
        reader = BlockReader(file, "second")
        parts = [reader.read(block).clone() for block in cut]
    assert all(0 < block.count <= size for block in cut)
    assert all(
        block.first % columns(shape) + block.count <= columns(shape) or block.first % columns(shape) == 0
        for block in cut
    )
    assert all(block.count <= columns(shape) or block.count % columns(shape) == 0 for block in cut)
    joined = torch.cat(parts) if parts else torch.empty(0, dtype=dtype)
    assert same_bits(joined.reshape(shape), tensors["second"])


def test_shards_are_one_model_to_the_reader_and_to_the_fingerprint(tmp_path):
    tensors = {f"t{i}": random_tensor((40, i + 1), torch.bfloat16, i) for i in range(5)}
    save_sharded(tensors, tmp_path / "two", 2)
    save_sharded(tensors, tmp_path / "five", 5)
    (tmp_path / "one").mkdir()
    save_file(tensors, tmp_path / "one" / "model.safetensors")
    opened = [WeightFiles(tmp_path / name) for name in ("one", "two", "five")]
    assert [len(files.files) for files in opened] == [1, 2, 5]
    assert len({files.fingerprint() for files in opened}) == 1
    assert all(same_bits(files.read(name), tensors[name]) for files in opened for name in tensors)


def test_the_fingerprint_sees_names_dtypes_shapes_and_beginnings(tmp_path):
    original = {"a": torch.zeros(64, 64), "b": torch.ones(8)}
    changed_first = {"a": original["a"].index_fill(0, torch.tensor([0]), 1.0), "b": original["b"]}
    variants = [
        original,
        changed_first,
        {"a": original["a"].view(32, 128), "b": original["b"]},
        {"a": original["a"].int(), "b": original["b"]},
        {"a": original["a"], "c": original["b"]},
    ]
    changed_deep = {"a": original["a"].index_fill(0, torch.tensor([63]), 1.0), "b": original["b"]}
    fingerprints = []
    for i, tensors in enumerate([*variants, changed_deep]):
        (tmp_path / str(i)).mkdir()
        save_file(tensors, tmp_path / str(i) / "model.safetensors")
        fingerprints.append(WeightFiles(tmp_path / str(i)).fingerprint())
    assert len(set(fingerprints[:-1])) == len(variants)
    assert fingerprints[-1] == fingerprints[0], "only the first 4 KiB of a tensor take part"


def saved(folder: Path) -> Path:
    save_file({"a": torch.arange(100.0)}, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.parametrize("size", [0, 5, 60, 300, 487])
def test_a_file_that_is_cut_off_is_named(size, tmp_path):
    path = saved(tmp_path)
    os.truncate(path, size)
    with pytest.raises(ValueError, match=rf"{path} .*fetch it again"):
        WeightFiles(tmp_path)


def test_a_file_that_is_cut_off_while_it_is_read_is_named(tmp_path):
    path = saved(tmp_path)
    weights = WeightFiles(tmp_path)
    os.truncate(path, 200)
    with pytest.raises(OSError, match=rf"{path} ends at byte 200 within tensor a"):
        weights.read("a")


def test_a_header_that_is_not_true_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    entry = {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}
    for header, message in (
        (json.dumps({"a": entry}).encode(), "bytes of tensor a are not where its shape puts them"),
        (json.dumps({"a": {**entry, "dtype": "F4"}}).encode(), "tensor a has dtype F4, handled are"),
        (b"not JSON", "is no sound safetensors file"),
        (b"[]", "is no sound safetensors file"),
        (json.dumps({"a": {}}).encode(), "is no sound safetensors file"),
        (json.dumps({"a": {**entry, "shape": [-2, -2]}}).encode(), "is no sound safetensors file"),
        (json.dumps({"a": {**entry, "shape": None}}).encode(), "is no sound safetensors file"),
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
        with pytest.raises(ValueError, match=f"{path}.*{message}"):
            WeightFiles(tmp_path)


def test_a_folder_whose_shards_do_not_fit_together_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="convert the weights to safetensors"):
        WeightFiles(tmp_path)
    folder = save_sharded({"a": torch.zeros(3), "b": torch.zeros(2)}, tmp_path / "sharded", 2)
    shutil.copy(folder / "model-0.safetensors", folder / "model-1.safetensors")
    with pytest.raises(ValueError, match=r"tensor a is in .*model-0.safetensors and in .*model-1"):
        WeightFiles(folder)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-1.safetensors is missing"):
        WeightFiles(folder)
    for name in ("../model.safetensors", "lock", 3):
        index = json.dumps({"weight_map": {"a": name}})
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(ValueError, match="which is not a safetensors file of that folder"):
            WeightFiles(folder)
    for index in ("{}", '{"weight_map": {}}', "[]", "no JSON"):
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(ValueError, match=r"index.json (has no weight_map|lists no file)"):
            WeightFiles(folder)


def test_one_file_goes_before_an_index_as_in_transformers(tmp_path):
    folder = save_sharded({"a": torch.zeros(3), "b": torch.zeros(2)}, tmp_path / "sharded", 2)
    save_file({"a": torch.ones(3)}, folder / "model.safetensors")
    assert WeightFiles(folder).read("a").tolist() == [1, 1, 1]


def test_files_are_closed_with_the_object(tmp_path):
    saved(tmp_path)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    opened = [WeightFiles(tmp_path) for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before + 5
    del opened
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_written_file_is_what_safetensors_reads(tmp_path):
    tensors = {
        "b": torch.arange(6.0).view(2, 3),
        "a": torch.arange(5, dtype=torch.bfloat16),
        "c": torch.tensor(3),
    }
    specs = {
        "b": TensorSpec("F32", (2, 3)),
        "a": TensorSpec("BF16", (5,)),
        "c": TensorSpec("I64", ()),
    }
    write_tensors(tmp_path / "written", tensors.items(), specs)
    loaded = load_file(tmp_path / "written")
    assert all(same_bits(loaded[name], tensor) for name, tensor in tensors.items())
    padded = encode_head(specs, length=len(encode_head(specs)) + 64)
    content = (tmp_path / "written").read_bytes()[len(encode_head(specs)) :]
    (tmp_path / "padded").write_bytes(padded + content)
    assert all(same_bits(load_file(tmp_path / "padded")[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(ValueError, match=r"expected a .*, got a torch.float32"):
        write_tensors(tmp_path / "wrong", {**tensors, "a": torch.zeros(5)}.items(), specs)
