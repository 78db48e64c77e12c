"""The *packed* product: token rows, shuffled globally once, as Parquet shards and a manifest.

    shard-00000.parquet   tokens, doc_start, domain (see shard_writer)
    shard-00001.parquet   …
    manifest.json         counts, layout, hash of every file (see manifest)

- Rows of `seq_len` + 1 tokens that overlap by one: every token is predicted once, nothing is dropped (see
  rows).
- A seeded external shuffle (see shuffling): memory does not grow with the data. Shuffling at write is what
  lets a loader read whole pages and still see well-mixed batches.
- Equal documents and configuration give equal bytes, for a given pyarrow.
- Written to `<out>.part` and renamed: a reader sees a whole data set or none.

Price: the rows are written twice; scratch space of the uncompressed tokens' size beside `out`.
"""

from collections.abc import Iterable
from pathlib import Path

from numpy.typing import ArrayLike

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.manifest import PackManifest
from yunmin_assets.columnar.rows import RowCutter, RowLayout
from yunmin_assets.columnar.shard_writer import ShardWriter
from yunmin_assets.columnar.shuffling import external_shuffle
from yunmin_assets.files import new_folder
from yunmin_assets.progress import Log, silent, track

SCRATCH_FOLDER = "shuffle"


def pack_documents(
    token_documents: Iterable[ArrayLike],
    out: Path,
    config: PackConfig,
    *,
    domain: str = "",
    tokenizer_hash: str = "",
    log: Log = silent,
) -> PackManifest:
    """Pack tokenized documents into shuffled rows.

    Args:
        token_documents: one 1-D integer array per document, without end-of-text token; read once, in order.
        out: folder to create.
        domain: written with every row.
        tokenizer_hash: `tokenizer_hash` of the tokenizer; recorded in the manifest.

    Returns:
        The manifest that was written.

    Raises:
        ValueError: a token id outside the vocabulary, a vocabulary that needs more than 32 bits, or no token
            at all.
        FileExistsError: `out` already holds something.
    """
    layout = RowLayout.of(config)
    cutter = RowCutter(config, layout)
    with new_folder(out) as part:
        shuffled = external_shuffle(
            cutter.blocks(track(token_documents, log, "documents")),
            seed=config.seed,
            scratch=part / SCRATCH_FOLDER,
            memory_bytes=config.shuffle_memory_bytes,
        )
        files = ShardWriter(part, layout, config, domain).write(track(shuffled, log, "shuffled blocks"))
        counts = cutter.counts
        if counts.document_tokens == 0:
            raise ValueError(f"no token in {counts.documents} documents: there is nothing to pack into {out}")
        manifest = PackManifest(
            files=tuple(files),
            rows=counts.rows,
            tokens=counts.document_tokens + counts.documents,
            documents=counts.documents,
            padding_tokens=counts.padding_tokens,
            domains={domain: counts.rows},
            tokenizer_hash=tokenizer_hash,
            dtype=layout.dtype,
            seq_len=config.seq_len,
            vocab_size=config.vocab_size,
            eos_id=config.eos_id,
            seed=config.seed,
            compression=config.compression,
        )
        manifest.write(part)
    return manifest
