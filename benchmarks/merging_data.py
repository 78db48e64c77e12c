"""What `benchmarks/merging.py` merges: a synthetic Llama of random numbers, four fine-tunes and four adapters of it.

Llama, because mergekit has no Mamba-2. Names and shapes are those that transformers gives it; embedding and head are
two fifths of the parameters. All sizes grow together: in four times the gigabytes every matrix is four times as large.

- base: normal with a standard deviation of 0.02, with which transformers starts a Llama;
- fine-tuned: base plus normal noise of 0.0004, a relative change of 2 %. Fine-tuning changes numbers by up to 0.002
  (DARE, arXiv 2311.03099), which is five standard deviations. The norms' scales stay: near 1, bfloat16 is too coarse;
- adapters: LoRA of rank 16 on all projections of every layer, in peft's own format and float32, with B·A of that size.

The numbers come from a table of 4 Mi that is begun anywhere. The model is of no use, but a merge takes the same time
as with real weights. Files are written in less than 3 GB of memory.
"""

import json
import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file

BASE_DEVIATION, CHANGE_DEVIATION = 0.02, 0.0004
LAYERS, HEADS, KEY_VALUE_HEADS = 20, 16, 4
VOCABULARY_PER_HIDDEN, INTERMEDIATE_PER_HIDDEN = 98, 4
HIDDEN_OF_A_GIGABYTE, HIDDEN_STEP = 1024, 64
LARGEST_SHARD = 10**9
RANK, ALPHA = 16, 32
SCALE = ALPHA / RANK
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PEFT_PREFIX = "base_model.model."
NOISE_NUMBERS = 1 << 22
WEIGHT_FILES = "*.safetensors"
METADATA = {"format": "pt"}

Shape = tuple[int, ...]


def write_base(folder: Path, gigabytes: float, largest_shard: int = LARGEST_SHARD) -> None:
    """A Llama of about so many GB in bfloat16, with a config and a small tokenizer."""
    from transformers import AutoModelForCausalLM

    config = llama_config(gigabytes)
    with torch.device("meta"):
        state = AutoModelForCausalLM.from_config(config).state_dict()
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    _write_tokenizer(folder)
    noise = Noise(seed=0)
    split = split_torch_state_dict_into_shards(
        {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}, max_shard_size=largest_shard
    )
    for file, names in split.filename_to_tensors.items():
        tensors = {name: noise.add_to(_start(state[name].shape), name, BASE_DEVIATION) for name in names}
        save_file(tensors, folder / file, METADATA)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def llama_config(gigabytes: float) -> Any:
    """The LlamaConfig of a model of about so many GB."""
    from transformers import LlamaConfig

    hidden = HIDDEN_STEP * max(1, round(HIDDEN_OF_A_GIGABYTE * math.sqrt(gigabytes) / HIDDEN_STEP))
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=INTERMEDIATE_PER_HIDDEN * hidden,
        vocab_size=VOCABULARY_PER_HIDDEN * hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        tie_word_embeddings=False,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def write_tuned(base: Path, folder: Path, seed: int) -> None:
    """A fully fine-tuned model: every number of the base moved a little."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns(WEIGHT_FILES), dirs_exist_ok=True)
    noise = Noise(seed)
    for path in sorted(base.glob(WEIGHT_FILES)):
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            tensors = {name: noise.add_to(file.get_tensor(name), name, CHANGE_DEVIATION) for name in names}
        save_file(tensors, folder / path.name, METADATA)


def write_adapter(base: Path, folder: Path, seed: int) -> None:
    """A LoRA adapter as peft saves one."""
    from peft import LoraConfig

    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(TARGET_MODULES),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
        inference_mode=True,
    )
    config.save_pretrained(folder)
    factors = {}
    for name, (rows, columns) in adapted_shapes(base).items():
        module, random = PEFT_PREFIX + name.removesuffix(".weight"), _generator(name, seed)
        a_deviation = 1 / math.sqrt(3 * columns)  # of peft's uniform start of A
        b_deviation = CHANGE_DEVIATION / (SCALE * math.sqrt(RANK) * a_deviation)
        factors[f"{module}.lora_A.weight"] = torch.randn(RANK, columns, generator=random) * a_deviation
        factors[f"{module}.lora_B.weight"] = torch.randn(rows, RANK, generator=random) * b_deviation
    save_file(factors, folder / "adapter_model.safetensors", METADATA)


def adapted_shapes(base: Path) -> dict[str, Shape]:
    """Name and shape of every tensor of the base that an adapter changes."""
    shapes: dict[str, Shape] = {}
    for path in sorted(base.glob(WEIGHT_FILES)):
        with safe_open(path, "pt") as file:
            shapes |= {
                name: tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118  safe_open cannot be iterated
                if name.removesuffix(".weight").endswith(TARGET_MODULES)
            }
    return shapes


class Noise:
    """Normal numbers of one seed: a table, read from a random place for every block of a tensor."""

    def __init__(self, seed: int):
        table = torch.randn(NOISE_NUMBERS, generator=_generator("noise", seed))
        self._seed, self._twice = seed, torch.cat([table, table])

    def add_to(self, tensor: torch.Tensor, name: str, deviation: float) -> torch.Tensor:
        """Move a bfloat16 tensor in place, block by block, so that float32 is never needed for all of it."""
        random = _generator(name, self._seed)
        for block in tensor.view(-1).split(NOISE_NUMBERS):
            place = int(torch.randint(NOISE_NUMBERS, (), generator=random))
            block.copy_(block.float().add_(self._twice[place : place + len(block)], alpha=deviation))
        return tensor


def _start(shape: Shape) -> torch.Tensor:
    """Zeros, and ones for the scales of norms, which are the only vectors."""
    return torch.full(shape, 1.0 if len(shape) == 1 else 0.0, dtype=torch.bfloat16)


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(
        folder
    )
