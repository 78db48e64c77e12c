"""Folders of reference models: those of a snapshot, and one that a user gives."""

from pathlib import Path

from yunmin_assets.files import MissingInputError
from yunmin_assets.pruning.halves import SCORED_BY, Half

GIVEN = "given"
"""Folder of the checkpoint that scores both halves, instead of one folder per half."""
NEEDED = {
    "config.json": "the folder of a Hugging Face causal LM has one",
    "tokenizer*": "copy tokenizer.json and tokenizer_config.json there",
    "*.safetensors": "convert the weights with save_pretrained",
}


def models_in(folder: Path) -> dict[Half, Path]:
    """By half, the model of a `reference_model` snapshot that knows it: what `cross_score` takes."""
    given = folder / GIVEN
    return {half: given if given.is_dir() else folder / half for half in SCORED_BY}


def require_checkpoint(folder: Path) -> None:
    """Refuse a folder that cannot be a reference model.

    Raises:
        MissingInputError: It lacks its configuration, tokenizer or weights; says which and what to do.
    """
    if not folder.is_dir():
        raise MissingInputError(f"reference_model.path: {folder} is not a folder")
    for pattern, cure in NEEDED.items():
        if not any(folder.glob(pattern)):
            raise MissingInputError(f"reference_model.path: {folder} holds no {pattern}: {cure}")
