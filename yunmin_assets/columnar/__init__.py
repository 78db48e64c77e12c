"""Columnar store: tokenizer, Parquet shards, and the loader that trains straight from Parquet pages.

    train_tokenizer → tokenize_documents → pack_documents → PackedDataset
                    ↘ write_domain_shards  (both products of a domain, going on after a kill)

The idea is Youmu's (MLSys 2025): the Parquet *data page* is the unit of I/O. Documents are cut into rows of
`seq_len` + 1 tokens and shuffled globally once, when they are written; the loader then reads pages in a
seeded order and can stop and go on at any row. Any Parquet tool opens the files.

The names below are imported on first use, so that reading a configuration does not import torch.
"""

from typing import TYPE_CHECKING

from yunmin_assets.columnar.config import PackConfig, TokenizerConfig
from yunmin_assets.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from yunmin_assets.columnar.batches import PackedBatch
    from yunmin_assets.columnar.document_boundaries import document_ends, document_numbers, position_ids
    from yunmin_assets.columnar.document_reader import read_document_batches
    from yunmin_assets.columnar.loader import PackedDataset
    from yunmin_assets.columnar.manifest import PackManifest
    from yunmin_assets.columnar.mixed_loader import MixedDataset
    from yunmin_assets.columnar.packing import pack_documents
    from yunmin_assets.columnar.page_reader import DamagedFileError, PageReader
    from yunmin_assets.columnar.shards import DomainShards, write_domain_shards
    from yunmin_assets.columnar.tokenizer import tokenize_documents, tokenizer_hash
    from yunmin_assets.columnar.tokenizer_training import TokenizerSummary, train_tokenizer

__all__ = [
    "DamagedFileError",
    "DomainShards",
    "MixedDataset",
    "PackConfig",
    "PackManifest",
    "PackedBatch",
    "PackedDataset",
    "PageReader",
    "TokenizerConfig",
    "TokenizerSummary",
    "document_ends",
    "document_numbers",
    "pack_documents",
    "position_ids",
    "read_document_batches",
    "tokenize_documents",
    "tokenizer_hash",
    "train_tokenizer",
    "verify_packed",
    "write_domain_shards",
]

_MODULE_OF = {
    "DamagedFileError": "page_reader",
    "DomainShards": "shards",
    "MixedDataset": "mixed_loader",
    "PackManifest": "manifest",
    "PackedBatch": "batches",
    "PackedDataset": "loader",
    "PageReader": "page_reader",
    "TokenizerSummary": "tokenizer_training",
    "document_ends": "document_boundaries",
    "document_numbers": "document_boundaries",
    "pack_documents": "packing",
    "position_ids": "document_boundaries",
    "read_document_batches": "document_reader",
    "tokenize_documents": "tokenizer",
    "tokenizer_hash": "tokenizer",
    "train_tokenizer": "tokenizer_training",
    "verify_packed": "verification",
    "write_domain_shards": "shards",
}

__getattr__ = lazy_exports(__name__, _MODULE_OF)
