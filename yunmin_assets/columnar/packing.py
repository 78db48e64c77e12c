"""The *packed* product: token rows, shuffled globally once, as Parquet shards and a manifest.

    shard-00000.parquet            tokens, doc_start, domain (see shard_writer)
    shard-00000.index.safetensors  what a loader must know about its pages (see shard_index)
    shard-00001.parquet            …
    manifest.json                  counts, layout, hash of every file (see manifest)

- Rows of `seq_len` + 1 tokens that overlap by one: every token is predicted once, nothing is dropped (see
  rows).
- A seeded external shuffle (see shuffling): memory does not grow with the data. Shuffling at write is what
  lets a loader read whole pages and still see well-mixed batches.
- Equal documents and configuration give equal bytes, for a given pyarrow, whatever the memory.
- Written to `<out>.part` and renamed, or uploaded shard by shard with the manifest last (see upload): a
  reader sees a whole data set or none.

Price: the rows are written twice; scratch space of the uncompressed tokens' size.
"""

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from upath import UPath

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.manifest import MANIFEST_FILE, PackManifest
from yunmin_assets.columnar.rows import RowCounts, RowCutter, RowLayout
from yunmin_assets.columnar.shard_index import index_name
from yunmin_assets.columnar.shard_writer import ShardWriter
from yunmin_assets.columnar.shuffling import gather, place_of_last_row, scatter
from yunmin_assets.columnar.upload import Upload
from yunmin_assets.files import new_folder
from yunmin_assets.progress import Log, Progress, silent, track

SCRATCH_FOLDER = "shuffle"
MEGABYTE = 1024 * 1024

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Deliver = Callable[[Path], None]


def pack_documents(
    token_documents: Iterable[ArrayLike],
    out: Path | UPath | str,
    config: PackConfig,
    *,
    domain: str = "",
    tokenizer_hash: str = "",
    log: Log = silent,
) -> PackManifest:
    """Pack tokenized documents into shuffled rows.

    Args:
        token_documents: one 1-D integer array per document, without end-of-text token; read once, in order.
        out: folder to create, or an `s3://` prefix (a `UPath` carries an endpoint and credentials of its own).
        config: layout of the rows.
        domain: written with every row.
        tokenizer_hash: `tokenizer_hash` of the tokenizer; recorded in the manifest.
        log: progress.

    Returns:
        The manifest that was written.

    Raises:
        ValueError: a token id outside the vocabulary, a vocabulary that needs more than 32 bits, a row longer
            than a page, or no token at all.
        FileExistsError: `out` already holds something.
        RuntimeError: another process packs into `out`.
        OSError: the disk is full.

    A folder is not there after an error. Of a broken upload objects remain, but no manifest; pack again into
    the same prefix (see upload).
    """
    with _destination(UPath(out)) as (folder, deliver), explain_full_disk(folder):
        cutter = RowCutter(config)
        writer = ShardWriter(folder, config, domain, tokenizer_hash)
        scratch = folder / SCRATCH_FOLDER
        scatter(cutter.blocks(track(token_documents, log, "documents")), scratch, seed=config.seed)
        refuse_nothing(cutter.counts, str(out))
        shuffled = shuffled_rows([scratch], config)
        manifest = write_shards(shuffled, cutter.counts, writer, deliver=deliver, log=log)
        shutil.rmtree(scratch)
    return manifest


def shuffled_rows(scattered: list[Path], config: PackConfig) -> Callable[[int], Iterator[NDArray[np.uint8]]]:
    """A function that reads scattered records in their final order, from a given row on."""
    record_bytes = RowLayout.of(config).record_bytes
    memory_bytes = int(config.shuffle_memory_mb * MEGABYTE)
    return lambda first_row: gather(scattered, record_bytes, memory_bytes=memory_bytes, skip_rows=first_row)


def write_shards(
    shuffled: Callable[[int], Iterator[NDArray[np.uint8]]],
    counts: RowCounts,
    writer: ShardWriter,
    *,
    deliver: Deliver | None = None,
    log: Log = silent,
) -> PackManifest:
    """Write the shards that are not in the writer's folder yet, and then the manifest.

    Args:
        shuffled: gives the records from a row on.
        counts: what was packed.
        deliver: called with each file when it is whole, the manifest last.

    Raises:
        RuntimeError: there are more or fewer rows than were packed.
    """
    entries = writer.finished()
    config, layout = writer.config, writer.layout
    with Progress(log, "rows written", counts.rows) as progress:
        progress.advance(sum(entry.rows for entry in entries))
        for entry in writer.write(shuffled(progress.done), first_shard=len(entries)):
            entries.append(entry)
            if deliver:
                deliver(writer.folder / entry.name)
                deliver(writer.folder / index_name(entry.name))
            progress.advance(entry.rows)
    _refuse_other_rows(sum(entry.rows for entry in entries), counts, writer.folder)
    manifest = PackManifest(
        files=tuple(entries),
        rows=counts.rows,
        tokens=counts.tokens,
        documents=counts.documents,
        padding_tokens=counts.padding_tokens,
        padded_row=place_of_last_row(counts.rows, config.seed) if counts.padding_tokens else None,
        domains={writer.domain: counts.rows},
        tokenizer_hash=writer.tokenizer_hash,
        dtype=layout.dtype,
        seq_len=config.seq_len,
        vocab_size=config.vocab_size,
        eos_id=config.eos_id,
        seed=config.seed,
        compression=config.compression,
    )
    manifest.write(writer.folder)
    writer.forget_entries()
    if deliver:
        deliver(writer.folder / MANIFEST_FILE)
    return manifest


def refuse_nothing(counts: RowCounts, where: str) -> None:
    """Refuse to pack what has no token: a loader could not deliver a single row of it.

    Raises:
        ValueError: there is no token.
    """
    if counts.document_tokens == 0:
        raise ValueError(f"no token in {counts.documents} documents: there is nothing to pack into {where}")


def _refuse_other_rows(written: int, counts: RowCounts, folder: Path) -> None:
    if written != counts.rows:
        raise RuntimeError(
            f"{counts.rows:,} rows were cut, but {written:,} are in the shards in {folder}: something else "
            "changed the files there or those of the shuffle; remove the folder or workspace and pack again"
        )


@contextlib.contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Say in an error about a full disk what to do.

    Raises:
        OSError: with the number of the one that came out of the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_IS_FULL:
            raise
        raise OSError(
            error.errno,
            f"the disk of {folder} took no more bytes ({error.strerror}); rows need twice the bytes of their "
            "tokens while they are shuffled: make room and run it again",
        ) from error


@contextlib.contextmanager
def _destination(out: UPath | Path) -> Iterator[tuple[Path, Deliver | None]]:
    """A local folder to write into, and what to do with every file that is finished there."""
    if isinstance(out, Path):
        with new_folder(Path(out)) as part:
            yield part, None
        return
    upload = Upload(out)
    with tempfile.TemporaryDirectory(prefix="yunmin-pack-") as folder:
        yield Path(folder), upload.deliver
    upload.finish()
