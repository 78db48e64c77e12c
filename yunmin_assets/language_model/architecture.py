"""Which network a configuration or a folder stands for, and where LoRA may be attached to it.

The embedded default is Mamba-2 (arXiv 2405.21060) in transformers' chunked PyTorch form, with one head group
and chunks of 64 positions. Measured at 1M parameters, batch 8 × 256 tokens, a training step: Mamba-2
5,500 tokens per CPU-second; Mamba-1 (arXiv 2312.00752) 5,600 with the scan of `selective_scan`, which replaces that
of transformers on a CPU, where Mamba-1 would learn 50 tokens per CPU-second.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from yunmin_assets.files import MissingInputError
from yunmin_assets.language_model.config import ModelConfig
from yunmin_assets.language_model.selective_scan import install_cpu_scan

transformers_logging.disable_progress_bar()  # progress is reported through yunmin_assets.progress
if not torch.cuda.is_available():
    transformers_logging.set_verbosity_error()  # without a GPU the fused kernels it misses cannot be had

MAMBA2_LARGEST_HEAD = 64  # the head size of the Mamba-2 paper
MAMBA2_CHUNK = (
    64  # positions; 32–64 are fastest on CPU, transformers' 256 builds 16 times larger score blocks
)
EXPANSION = 2  # inner width over hidden size, the same in both papers

MAMBA_1 = ("mamba", "falcon_mamba")
MAMBA_TYPES = (*MAMBA_1, "mamba2")
FUSED_MAMBA = "mamba_ssm"  # the package of the fused kernels

MAMBA_LORA_TARGETS = ("in_proj",)
ATTENTION_LORA_TARGETS = ("q_proj", "v_proj")  # the choice of the LoRA paper, arXiv 2106.09685 section 7.1

NOT_ADAPTABLE_IN_MAMBA = {
    "dt_proj": "Mamba multiplies by its weight without calling the module, so an adapter on it never trains",
    "out_proj": "the fused Mamba kernels read its weight without calling the module, and peft refuses it",
    "conv1d": "the Mamba kernels read its weight without calling the module, and peft refuses it",
}
NOT_ADAPTABLE_WHERE_FUSED = {
    "x_proj": f"the fused kernels of {FUSED_MAMBA}, which are installed here, read its weight without calling the "
    "module; it can be adapted on a CPU and without them",
}
NEVER_ADAPTABLE = {
    "embeddings": "the output head is tied to it, so merging the adapter would shift the logits",
    "embed_tokens": "the output head may be tied to it, so merging the adapter would shift the logits",
    "lm_head": "it may be tied to the embeddings, so merging the adapter would shift the inputs",
    "all-linear": "it includes layers that cannot be adapted; name the modules instead",
}


_chosen_device: torch.device | None = None


def use_device(name: str | None) -> None:
    """Put the models that are built or loaded from now on onto a device; None: a GPU when there is one."""
    global _chosen_device
    _chosen_device = torch.device(name) if name else None


def default_device() -> torch.device:
    """The device that was chosen, else the first GPU when there is one, else the CPU."""
    return _chosen_device or torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_model(config: ModelConfig, vocab_size: int, eos_id: int, seed: int) -> PreTrainedModel:
    """A randomly initialised Mamba or Mamba-2 with tied embeddings, float32, on the default device.

    Args:
        config: Architecture and size.
        vocab_size: Rows of the embedding; ids of the training data must be below.
        eos_id: End-of-text id, also used for padding and as the start of every document.
        seed: Seed of the initialisation; the global random state is left as it was.
    """
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "state_size": config.state_size,
        "num_hidden_layers": config.layers,
        "expand": EXPANSION,
        "tie_word_embeddings": True,
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "pad_token_id": eos_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.architecture == "mamba":
            model = MambaForCausalLM(MambaConfig(**sizes))
        else:
            inner = EXPANSION * config.hidden_size
            head = math.gcd(inner, MAMBA2_LARGEST_HEAD)
            model = Mamba2ForCausalLM(
                Mamba2Config(
                    **sizes, head_dim=head, num_heads=inner // head, n_groups=1, chunk_size=MAMBA2_CHUNK
                )
            )
    return _placed(model, default_device())


def load_model(folder: Path, device: torch.device | None = None) -> PreTrainedModel:
    """Load a causal LM from a Hugging Face folder, in the dtype it was saved in, ready for inference.

    Args:
        folder: With `config.json` and weights.
        device: Where to; None: the default device.

    Raises:
        MissingInputError: `folder` holds no `config.json`.
        ValueError: Its weights do not cover the architecture exactly (transformers would only warn and
            start the missing ones at random).
    """
    if not (folder / "config.json").is_file():
        raise MissingInputError(f"{folder} holds no config.json: give the folder of a Hugging Face causal LM")
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, output_loading_info=True
    )
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if report.get(problem):
            names = ", ".join(str(name) for name in sorted(report[problem])[:3])
            raise ValueError(f"the weights in {folder} do not fit its config.json: {problem} {names}")
    return _placed(model, device or default_device()).eval()


def _placed(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    install_cpu_scan(model.config.model_type, is_needed=device.type == "cpu")
    return model.to(device)


def lora_target_modules(model: PreTrainedModel, requested: Sequence[str] = ()) -> list[str]:
    """The names of the linear modules that get a LoRA adapter.

    Args:
        model: The base model.
        requested: Module names chosen by the user; empty means the right ones for the architecture:
            `in_proj` on Mamba-1 and Mamba-2, `q_proj` and `v_proj` on Llama-like models.

    Raises:
        ValueError: A name matches no linear module, or stands for a module on which an adapter never
            trains or cannot be merged. The message says which and why.
    """
    model_type = model.config.model_type
    is_mamba = model_type in MAMBA_TYPES
    linear = {
        name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    targets = sorted(set(requested) or (MAMBA_LORA_TARGETS if is_mamba else ATTENTION_LORA_TARGETS))
    reasons = NEVER_ADAPTABLE | (NOT_ADAPTABLE_IN_MAMBA if is_mamba else {})
    if model_type in MAMBA_1 and model.device.type != "cpu" and find_spec(FUSED_MAMBA):
        reasons = reasons | NOT_ADAPTABLE_WHERE_FUSED
    for target in targets:
        if target in reasons:
            raise ValueError(f"no LoRA adapter on {target!r} of a {model_type} model: {reasons[target]}")
        if target not in linear:
            usable = ", ".join(sorted(linear - reasons.keys()))
            raise ValueError(
                f"LoRA target {target!r} matches no linear module of this {model_type} model; "
                f"choose among: {usable}"
            )
    return targets
