"""The tokenizer that lies beside a model's weights."""

import shutil
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from yunmin_assets.files import MissingInputError

TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "chat_template*",
)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the Hugging Face tokenizer of a folder.

    Raises:
        MissingInputError: The folder holds no tokenizer.
        ValueError: The tokenizer names no end-of-text token, which starts and ends every document here.
    """
    if not any(folder.glob("tokenizer*")):
        raise MissingInputError(
            f"{folder} holds no tokenizer: copy tokenizer.json and tokenizer_config.json there"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer in {folder} has no eos_token: name it in tokenizer_config.json")
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id: how many rows an embedding needs. Ids may have gaps, so not `len(tokenizer)`."""
    return max(tokenizer.get_vocab().values()) + 1


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files from one model folder to another, byte for byte."""
    for pattern in TOKENIZER_FILES:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, target / file.name)
