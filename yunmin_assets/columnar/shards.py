"""The two products of one domain, written together from its Parquet documents.

    documents/shard-*.parquet            the training documents, for any Parquet tool (see document_shards)
    packed/train/…  packed/validation/…  token rows, for `PackedDataset` (see packing)

Memory does not grow with the data: documents are read, tokenised, cut into rows and scattered to disk as a
stream. All of it happens in a *workspace* that outlives a killed run; what was finished there is not done
again, and the result has the same bytes as that of an undisturbed run. What is found to be damaged there is
removed, so that the next run does it again.

    plan.json, lock            what is computed here, by one process at a time; another plan is refused
    <split>/pieces/00000/…     rows of one piece of the documents, before the shuffle (see shuffling), and
                               stream.json, where the stream of documents stands behind it (see rows)
    <split>/documents/…        finished document shards, one per piece
    <split>/packed/…           finished shards of rows, and the manifest when they are complete

Price: disk for the uncompressed tokens beside both products, until the workspace is removed; the source files
are read once more for their hashes; a killed run repeats at most one piece (192 MB of text by default) or one
shard.
"""

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from yunmin_assets.columnar.config import PackConfig
from yunmin_assets.columnar.document_shards import (
    DocumentCounts,
    DocumentShardWriter,
    count_documents,
    token_count_histogram,
)
from yunmin_assets.columnar.manifest import PackManifest, shard_name
from yunmin_assets.columnar.packing import explain_full_disk, refuse_nothing, shuffled_rows, write_shards
from yunmin_assets.columnar.rows import RowCounts, RowCutter
from yunmin_assets.columnar.shard_writer import ShardWriter
from yunmin_assets.columnar.shuffling import scatter
from yunmin_assets.columnar.tokenizer import TokenizedBatch, tokenize_batches, tokenizer_hash
from yunmin_assets.columnar.verification import stored_record_hash
from yunmin_assets.documents import DOCUMENT_SCHEMA, document_batches
from yunmin_assets.files import locked, new_folder, sha256_of, write_whole
from yunmin_assets.progress import Log, Progress, silent
from yunmin_assets.snapshot_files import DOCUMENTS, PACKED

PLAN_FILE, LOCK_FILE, STREAM_FILE = "plan.json", "lock", "stream.json"
NO_HARD_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)
"""Another disk, a file system without hard links, or too many of them."""


@dataclass(frozen=True)
class DomainShards:
    """What was written for one domain."""

    packed: Mapping[str, PackManifest]
    """By split."""
    documents: DocumentCounts
    """Of the documents product."""
    document_shards: int
    document_bytes: int
    """Size of the documents product."""
    packed_bytes: int
    """Size of the packed training rows."""
    document_lengths: Mapping[int, int]
    """Training documents with 1, 2–3, 4–7, … tokens, by the lower bound."""
    damage: tuple[str, ...]
    """Splits whose rows, read back, are not those that went in, or whose documents have other counts."""

    @property
    def every_token_packed(self) -> bool:
        """Whether both products hold what went in."""
        return not self.damage


def write_domain_shards(
    files: Mapping[str, Path],
    tokenizer_dir: Path,
    folder: Path,
    config: PackConfig,
    *,
    domain: str,
    workspace: Path,
    log: Log = silent,
) -> DomainShards:
    """Tokenise and write both products of one domain into `folder`, then read the rows back.

    Args:
        files: Parquet files of documents under "train" and "validation".
        tokenizer_dir: folder written by `train_tokenizer`.
        folder: an existing, empty folder.
        config: layout of the packed rows.
        domain: recorded in every row.
        workspace: a folder that outlives this process, on the disk of `folder` at best; the caller removes it.
        log: progress.

    Raises:
        FileExistsError: `folder` already holds something.
        ValueError: a split has no token; the tokenizer's ids do not fit `config`; a text is null or not UTF-8;
            the workspace was begun for other documents, another tokenizer or another layout; or it was
            damaged (what is damaged is removed, so it may be tried again).
        RuntimeError: another process is working in the workspace.
        OSError: the disk is full; what is finished in the workspace stays.
    """
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} already holds something: remove it, or write into a new folder")
    fingerprint = tokenizer_hash(tokenizer_dir)
    packed, counts = {}, {}
    with _claimed(workspace, _plan(files, fingerprint, config, domain)), explain_full_disk(workspace):
        for split, source in files.items():
            writer = ShardWriter(_made(workspace / split / PACKED), config, domain, fingerprint)
            work = _SplitWork(split, source, workspace / split, writer, tokenizer_dir, log)
            counts[split] = work.tokenize()
            packed[split] = work.write_rows(counts[split])
        for split in files:
            _link_files(workspace / split / PACKED, folder / PACKED / split)
        _link_files(workspace / "train" / DOCUMENTS, folder / DOCUMENTS)
        shards = sorted((folder / DOCUMENTS).iterdir())
        damage = [split for split in files if not _is_stored(split, counts[split], folder, workspace / split)]
    return DomainShards(
        packed,
        count_documents(shards),
        document_shards=len(shards),
        document_bytes=sum(path.stat().st_size for path in shards),
        packed_bytes=sum(entry.bytes for entry in packed["train"].files),
        document_lengths=token_count_histogram(shards),
        damage=tuple(damage),
    )


def _is_stored(split: str, counts: RowCounts, folder: Path, work: Path) -> bool:
    """Whether both products hold what was counted; if not, `work`, which they come from, is removed."""
    packed = folder / PACKED / split
    with _removed_if_damaged(work):
        is_whole = stored_record_hash(packed, PackManifest.read(packed)) == counts.record_hash
        if split == "train":
            stored = count_documents(sorted((folder / DOCUMENTS).iterdir()))
            is_whole &= stored.tokens == counts.document_tokens
    if not is_whole:
        shutil.rmtree(work)
    return is_whole


@dataclass(frozen=True)
class _SplitWork:
    """One split on its way through the workspace."""

    split: str
    source: Path
    folder: Path
    writer: ShardWriter
    tokenizer_dir: Path
    log: Log

    def tokenize(self) -> RowCounts:
        """Tokenise and scatter the pieces that are not there yet; what all of them hold."""
        config = self.writer.config
        pieces = row_group_runs(self.source, config.shard_bytes)
        finished = [number for number in range(len(pieces)) if self._piece(number).exists()]
        cutter = RowCutter(config)
        if finished:
            cutter = RowCutter.resume(config, (self._piece(finished[-1]) / STREAM_FILE).read_text())
            self.log(f"{self.split}: {cutter.counts.documents:,} documents were tokenised before")
        left = pq.read_metadata(self.source).num_rows - cutter.counts.documents
        with Progress(self.log, f"{self.split} documents", left) as progress:
            speed = _Speed(progress)
            for number, row_groups in enumerate(pieces[len(finished) :], start=len(finished)):
                with new_folder(self._piece(number)) as part:
                    documents = self._documents(number, row_groups, speed)
                    is_last = number == len(pieces) - 1
                    blocks = cutter.blocks(documents, is_last=is_last)
                    scatter(blocks, part, seed=config.seed, first_row=cutter.counts.rows)
                    (part / STREAM_FILE).write_text(cutter.state())
        refuse_nothing(cutter.counts, f"{self.split} rows of {self.writer.domain or self.source}")
        return cutter.counts

    def write_rows(self, counts: RowCounts) -> PackManifest:
        """Shuffle the scattered rows into the shards that are not there yet."""
        pieces = sorted((self.folder / "pieces").iterdir())
        shuffled = shuffled_rows(pieces, self.writer.config)
        with _removed_if_damaged(self.folder):
            return write_shards(shuffled, counts, self.writer, log=self.log)

    def _piece(self, number: int) -> Path:
        return self.folder / "pieces" / f"{number:05d}"

    def _documents(self, number: int, row_groups: list[int], speed: "_Speed") -> Iterator[NDArray[np.uint32]]:
        """Token ids of a piece's documents; those of the training split become a shard on their way."""
        is_kept = self.split == "train"
        columns = DOCUMENT_SCHEMA.names if is_kept else ["text"]
        batches = document_batches(self.source, columns, row_groups)
        tokenized = tokenize_batches(batches, self.tokenizer_dir)
        if not is_kept:
            for batch in tokenized:
                yield from speed.counted(batch)
            return
        path = _made(self.folder / DOCUMENTS) / shard_name(number)
        with DocumentShardWriter(path, self.writer.tokenizer_hash) as shard:
            for batch in tokenized:
                shard.write(batch.documents, batch.lengths)
                yield from speed.counted(batch)


class _Speed:
    """Passes documents through and reports tokens per second beside the progress."""

    def __init__(self, progress: Progress):
        self._progress, self._tokens, self._started = progress, 0, time.monotonic()

    def counted(self, batch: TokenizedBatch) -> list[NDArray[np.uint32]]:
        self._tokens += len(batch.tokens)
        rate = self._tokens / max(time.monotonic() - self._started, 1e-9)
        self._progress.advance(len(batch.lengths), note=f"{rate:,.0f} tokens/s")
        return batch.split()


def row_group_runs(path: Path, text_bytes: int) -> list[list[int]]:
    """Cut a Parquet file of documents into runs of row groups with about so many bytes of text, as stored there.

    Returns:
        The row groups of each run; one empty run for a file without row groups.
    """
    metadata = pq.read_metadata(path)
    runs: list[list[int]] = [[]]
    filled = 0
    for number in range(metadata.num_row_groups):
        if filled >= text_bytes:
            runs.append([])
            filled = 0
        row_group = metadata.row_group(number)
        chunks = (row_group.column(column) for column in range(row_group.num_columns))
        filled += sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == "text")
        runs[-1].append(number)
    return runs


def _plan(files: Mapping[str, Path], tokenizer: str, config: PackConfig, domain: str) -> dict[str, Any]:
    return {
        "domain": domain,
        "tokenizer": tokenizer,
        "layout": config.fingerprint_options(),
        "documents": {split: sha256_of(path) for split, path in files.items()},
    }


@contextlib.contextmanager
def _claimed(workspace: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Hold a workspace alone, and hold its plan against that of the run that was killed there."""
    path = _made(workspace) / PLAN_FILE
    with locked(workspace / LOCK_FILE):
        begun = _read_plan(path) if path.exists() else None
        if begun is None:
            if path.exists():  # but unreadable: nobody knows what the rest was made for
                for split in plan["documents"]:
                    shutil.rmtree(workspace / split, ignore_errors=True)
            write_whole(path, json.dumps(plan, indent=1))
            begun = plan
        for name, now in plan.items():
            if begun.get(name) != now:
                raise ValueError(
                    f"{workspace} was begun with another {name} ({begun.get(name)}, now {now}): remove it, or "
                    "use another workspace"
                )
        yield


def _read_plan(path: Path) -> dict[str, Any] | None:
    """The plan that was begun; None when a loss of power left something else in its file."""
    try:
        plan = json.loads(path.read_bytes())
    except ValueError:
        return None
    return plan if isinstance(plan, dict) else None


@contextlib.contextmanager
def _removed_if_damaged(folder: Path) -> Iterator[None]:
    """Remove a folder of the workspace when what was written there cannot be read, so that it is made anew.

    Raises:
        RuntimeError: saying so; to try again helps.
    """
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the operating system; pyarrow's, about what is in a file, have no number
        shutil.rmtree(folder)
        raise RuntimeError(f"{folder} was damaged and is removed, so run it again: {error}") from error


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _link_files(source: Path, target: Path) -> None:
    """Give the files of a folder a second name in `target`; copy them where that cannot be."""
    for path in sorted(source.iterdir()):
        place = _made(target) / path.name
        try:
            os.link(path, place)
        except OSError as error:
            if error.errno not in NO_HARD_LINK:
                raise
            shutil.copyfile(path, place)
