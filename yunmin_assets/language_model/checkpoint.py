"""The state of an interrupted training run, in one safetensors file.

`latest.safetensors` holds the trainable parameters, the optimizer's moments and the random state as tensors,
and everything else (step, losses, the loader's position) as JSON in the file's metadata. One file means one
atomic rename: a reader finds the previous checkpoint or this one, never half of either.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from yunmin_assets.files import flush

FILE_NAME = "latest.safetensors"
METADATA_KEY = "state"  # a single key, because safetensors writes several in no fixed order


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Replace the folder's checkpoint by the present state.

    Args:
        folder: Created when absent.
        parameters: The trainable parameters by name.
        optimizer: Its state per parameter must consist of tensors, as AdamW's does.
        state: Anything else needed to go on, JSON-serialisable.
    """
    tensors = {f"parameter/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    for name, value in _random_state().items():
        tensors[f"random/{name}"] = value
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{FILE_NAME}.part"
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, part, metadata={METADATA_KEY: json.dumps(state)})
    flush(part)
    os.replace(part, folder / FILE_NAME)
    flush(folder)


def read_state(folder: Path) -> dict[str, Any] | None:
    """The JSON part of the folder's checkpoint, or None when there is no checkpoint."""
    if not (folder / FILE_NAME).exists():
        return None
    with safe_open(folder / FILE_NAME, "pt") as file:
        return json.loads(file.metadata()[METADATA_KEY])


def restore_checkpoint(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Put parameters, optimizer moments and random state back as they were saved.

    Raises:
        ValueError: The checkpoint's parameters are not these, by name or shape.
    """
    with safe_open(folder / FILE_NAME, "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {
        name.removeprefix("parameter/"): tuple(tensor.shape)
        for name, tensor in saved.items()
        if name.startswith("parameter/")
    }
    if shapes != found:
        differing = sorted(
            name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)
        )
        raise ValueError(
            f"the checkpoint in {folder} belongs to another model ({differing[0]} differs): remove the folder"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[f"parameter/{name}"])
    for full_name, tensor in saved.items():
        kind, _, rest = full_name.partition("/")
        if kind == "optimizer":
            key, _, name = rest.partition("/")
            # AdamW keeps its step counter on the CPU and its moments beside the parameter.
            optimizer.state[parameters[name]][key] = (
                tensor if key == "step" else tensor.to(parameters[name].device)
            )
    _set_random_state(
        {name.removeprefix("random/"): t for name, t in saved.items() if name.startswith("random/")}
    )


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
