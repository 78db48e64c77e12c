"""The state of an interrupted training run, in one safetensors file.

`latest.safetensors` holds as tensors

    parameter/<name>            the trainable parameters
    best/<name>                 those with the lowest validation loss, when there is validation
    optimizer/<key>/<name>      the optimizer's moments and step counter
    random/cpu, random/cuda     the state of the random generators

and everything else (step, losses, the loader's position) as JSON in the file's metadata. One file means one
atomic rename: a reader finds the previous checkpoint or this one, never half of either, also when the process is
killed or the disk fills up while it is written.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from yunmin_assets.files import flush

FILE_NAME = "latest.safetensors"
PART_FOLDER = "part"  # a folder, because safetensors writes under a name of its own before it renames
METADATA_KEY = "state"  # a single key, because safetensors writes several in no fixed order


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    best: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Replace the folder's checkpoint by the present state.

    Args:
        folder: Created when absent.
        parameters: The trainable parameters by name.
        optimizer: Its state per parameter must consist of tensors, as AdamW's does.
        state: Anything else needed to go on, JSON-serialisable.
        best: Earlier values of the parameters, worth keeping.

    Raises:
        OSError: The disk took no more bytes; the previous checkpoint is as it was.
    """
    tensors = {f"parameter/{name}": parameter.detach() for name, parameter in parameters.items()}
    tensors |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value
    for name, value in _random_state().items():
        tensors[f"random/{name}"] = value
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    part = folder / PART_FOLDER
    shutil.rmtree(part, ignore_errors=True)  # what a killed process left behind
    try:
        part.mkdir(parents=True)
        save_file(contiguous, part / FILE_NAME, metadata={METADATA_KEY: json.dumps(state)})
        flush(part / FILE_NAME)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        size = sum(tensor.nbytes for tensor in contiguous.values())
        raise OSError(
            f"the checkpoint of {size / 1e6:,.1f} MB could not be written to {folder} ({error}): make room there "
            "and run again, training goes on from the previous checkpoint"
        ) from error
    os.replace(part / FILE_NAME, folder / FILE_NAME)
    flush(folder)


def read_state(folder: Path) -> dict[str, Any] | None:
    """The JSON part of the folder's checkpoint, or None when there is no checkpoint."""
    if not (folder / FILE_NAME).exists():
        return None
    with safe_open(folder / FILE_NAME, "pt") as file:
        return json.loads(file.metadata()[METADATA_KEY])


def restore_checkpoint(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Put parameters, optimizer moments and random state back as they were saved.

    Returns:
        The best parameters by name, on the CPU; empty when none were saved.

    Raises:
        ValueError: The checkpoint's parameters are not these, by name or shape.
    """
    with safe_open(folder / FILE_NAME, "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    values = _below("parameter/", saved)
    _require_same_shapes(folder, parameters, values)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    for key_and_name, tensor in _below("optimizer/", saved).items():
        key, _, name = key_and_name.partition("/")
        # AdamW keeps its step counter on the CPU and its moments beside the parameter.
        optimizer.state[parameters[name]][key] = (
            tensor if key == "step" else tensor.to(parameters[name].device)
        )
    _set_random_state(_below("random/", saved))
    return _below("best/", saved)


def _below(prefix: str, saved: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}


def _require_same_shapes(
    folder: Path, parameters: Mapping[str, nn.Parameter], saved: Mapping[str, torch.Tensor]
) -> None:
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    found = {name: tensor.shape for name, tensor in saved.items()}
    differing = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if differing:
        raise ValueError(
            f"the checkpoint in {folder} belongs to another model ({differing[0]} differs): remove the folder"
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
