"""The two products of one domain, written together.

documents/shard-*.parquet          the training documents, for any Parquet tool
packed/train/…  packed/validation/…  token rows, for `PackedDataset`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.document_shards import write_document_shards
from yunmin_assets.columnar.manifest import PackManifest, verify_packed
from yunmin_assets.columnar.packing import pack_documents
from yunmin_assets.columnar.tokenizer import tokenize_documents, tokenizer_hash
from yunmin_assets.progress import Log, silent
from yunmin_assets.snapshot_files import PACKED


@dataclass(frozen=True)
class DomainShards:
    """What was written for one domain."""

    packed: Mapping[str, PackManifest]
    """By split."""
    document_tokens: Mapping[str, int]
    """Tokens of the documents of each split, without end-of-text tokens."""
    document_bytes: int
    """Size of the documents product."""
    text_bytes: int
    """UTF-8 bytes of the training texts."""

    @property
    def every_token_packed(self) -> bool:
        """Each packed split holds its documents' tokens and one end-of-text token per document."""
        return all(
            manifest.tokens == self.document_tokens[split] + manifest.documents
            for split, manifest in self.packed.items()
        )


def write_domain_shards(
    documents: Mapping[str, pa.Table],
    tokenizer_dir: Path,
    folder: Path,
    config: PackConfig,
    *,
    domain: str,
    log: Log = silent,
) -> DomainShards:
    """Tokenise and write both products of one domain into `folder`, then verify what was written.

    Args:
        documents: tables of documents under "train" and "validation".
        tokenizer_dir: folder written by `train_tokenizer`.
        folder: an existing folder.
        config: layout of the packed rows.
        domain: recorded in every row.
        log: progress.

    Raises:
        ValueError: a split has no token.
    """
    packed, document_tokens = {}, {}
    for split, table in documents.items():
        tokens = list(tokenize_documents(table.select(["text"]), tokenizer_dir))
        counts = [len(document) for document in tokens]
        document_tokens[split] = sum(counts)
        target = folder / PACKED / split
        fingerprint = tokenizer_hash(tokenizer_dir)
        pack_documents(tokens, target, config, domain=domain, tokenizer_hash=fingerprint, log=log)
        packed[split] = verify_packed(target, log)
        if split == "train":
            write_document_shards(table, counts, folder / "documents")
    return DomainShards(
        packed,
        document_tokens,
        document_bytes=sum(path.stat().st_size for path in (folder / "documents").iterdir()),
        text_bytes=pc.sum(pc.binary_length(documents["train"]["text"])).as_py() or 0,
    )
