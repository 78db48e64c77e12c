"""Names of files and folders inside snapshots that another stage reads: where stages meet."""

from pathlib import Path

from yunmin_assets.documents import split_path

TRAIN_FILE, VALIDATION_FILE, TEST_FILE = (
    split_path(Path(), split).name for split in ("train", "validation", "test")
)
"""`deduped_corpus`; `pruned_corpus` holds the first."""

TOKENIZER = "tokenizer"
"""Folder in `tokenizer`."""

DOCUMENTS = "documents"
"""Folder in `parquet_shards`, with the training documents and their token counts."""

PACKED = "packed"
"""Folder in `parquet_shards`, with a data set per split."""

LOADING_FILE = "loading.json"
"""In `loading_benchmark`."""

MODEL = "model"
"""Folder in `base_model` and `merged_model`."""

ADAPTER = "adapter"
"""Folder in `lora_adapter`."""

DIFFERENCE = "difference"
"""Folder in `diff_vector`."""

WEIGHTS_FILE = "weights.json"
"""In `domain_weights`."""


DECISIONS = "decisions"
"""Folder in `duplicate_clusters`."""


def decisions_file(domain: str) -> str:
    """A domain's decisions in `duplicate_clusters`."""
    return f"{DECISIONS}/{domain}.parquet"


def pairs_file(domain: str) -> str:
    """Some of a domain's removed documents beside their survivors, in `duplicate_clusters`."""
    return f"pairs/{domain}.parquet"
