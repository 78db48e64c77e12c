"""Columnar store: tokenizer, Parquet shards, and the loader that trains straight from Parquet pages.

    train_tokenizer → tokenize_documents → pack_documents → PackedDataset
                                         ↘ write_document_shards

The idea is Youmu's (MLSys 2025): the Parquet *data page* is the unit of I/O. Documents are cut into rows of
`seq_len` + 1 tokens and shuffled globally once, when they are written; the loader then reads pages in a
seeded order and can stop and go on at any row. Any Parquet tool opens the files.

The names below are imported on first use, so that reading a configuration does not import torch.
"""

from typing import TYPE_CHECKING

from yunmin_assets.columnar.config import PackConfig, TokenizerConfig
from yunmin_assets.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from yunmin_assets.columnar.document_shards import write_document_shards
    from yunmin_assets.columnar.loader import PackedBatch, PackedDataset
    from yunmin_assets.columnar.manifest import PackManifest, verify_packed
    from yunmin_assets.columnar.packing import pack_documents
    from yunmin_assets.columnar.page_reader import DamagedFileError, PageReader
    from yunmin_assets.columnar.tokenizer import (
        TokenizerSummary,
        tokenize_documents,
        tokenizer_hash,
        train_tokenizer,
    )

__all__ = [
    "DamagedFileError",
    "PackConfig",
    "PackManifest",
    "PackedBatch",
    "PackedDataset",
    "PageReader",
    "TokenizerConfig",
    "TokenizerSummary",
    "pack_documents",
    "tokenize_documents",
    "tokenizer_hash",
    "train_tokenizer",
    "verify_packed",
    "write_document_shards",
]

_MODULE_OF = {
    "DamagedFileError": "page_reader",
    "PackManifest": "manifest",
    "PackedBatch": "loader",
    "PackedDataset": "loader",
    "PageReader": "page_reader",
    "TokenizerSummary": "tokenizer",
    "pack_documents": "packing",
    "tokenize_documents": "tokenizer",
    "tokenizer_hash": "tokenizer",
    "train_tokenizer": "tokenizer",
    "verify_packed": "manifest",
    "write_document_shards": "document_shards",
}

__getattr__ = lazy_exports(__name__, _MODULE_OF)
