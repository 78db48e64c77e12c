"""The two products of one domain, written together from its Parquet documents.

    documents/shard-*.parquet            the training documents, for any Parquet tool (see document_shards)
    packed/train/…  packed/validation/…  token rows, for `PackedDataset` (see packing)

Memory does not grow with the data: documents are read, tokenised, cut into rows and scattered to disk as a
stream. All of it happens in a *workspace* that outlives a killed run; what was finished there is not done
again, and the result has the same bytes as that of an undisturbed run.

    plan.json, lock            what is computed here, by one process at a time; another plan is refused
    <split>/pieces/00000/…     rows of one piece of the documents, before the shuffle (see shuffling), and
                               stream.json, where the stream of documents stands behind it (see rows)
    <split>/documents/…        finished document shards, one per piece
    <split>/packed/…           finished shards of rows, and the manifest when they are complete

Price: disk for the uncompressed tokens beside both products, until the workspace is removed; a killed run
repeats at most one piece (192 MB of text by default) or one shard.
"""

import contextlib
import fcntl
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
from yunmin_assets.columnar.parquet_batches import iterate_batches
from yunmin_assets.columnar.rows import RowCounts, RowCutter
from yunmin_assets.columnar.shard_writer import TOKENS, ShardWriter
from yunmin_assets.columnar.shuffling import scatter
from yunmin_assets.columnar.tokenizer import BATCH_DOCUMENTS, TokenizedBatch, tokenize_batches, tokenizer_hash
from yunmin_assets.documents import DOCUMENT_SCHEMA
from yunmin_assets.files import new_folder
from yunmin_assets.progress import Log, Progress, silent
from yunmin_assets.snapshot_files import DOCUMENTS, PACKED

PLAN_FILE, LOCK_FILE, STREAM_FILE = "plan.json", "lock", "stream.json"


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
    every_token_packed: bool
    """The rows of each split, read back, sum up to the tokens that went in; so do the documents' counts."""


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
        folder: an existing folder.
        config: layout of the packed rows.
        domain: recorded in every row.
        workspace: a folder that outlives this process, on the disk of `folder` at best; the caller removes it.
        log: progress.

    Raises:
        ValueError: a split has no token; the tokenizer's ids do not fit `config`; a text is null; or the
            workspace was begun for other documents, another tokenizer or another layout.
        RuntimeError: another process is working in the workspace.
        OSError: the disk is full; what is finished in the workspace stays.
    """
    fingerprint = tokenizer_hash(tokenizer_dir)
    packed, counts = {}, {}
    with _claimed(workspace, _plan(files, fingerprint, config, domain)), explain_full_disk(workspace):
        for split, source in files.items():
            writer = ShardWriter(_made(workspace / split / PACKED), config, domain, fingerprint)
            work = _SplitWork(split, source, workspace / split, writer, tokenizer_dir, log)
            counts[split] = work.tokenize()
            packed[split] = work.write_rows(counts[split])
            _link_files(writer.folder, folder / PACKED / split)
        _link_files(workspace / "train" / DOCUMENTS, folder / DOCUMENTS)
    shards = sorted((folder / DOCUMENTS).iterdir())
    documents = count_documents(shards)
    is_complete = documents.tokens == counts["train"].document_tokens and all(
        _input_sum(folder / PACKED / split, manifest) == _expected_input_sum(counts[split], config)
        for split, manifest in packed.items()
    )
    return DomainShards(
        packed,
        documents,
        document_shards=len(shards),
        document_bytes=sum(path.stat().st_size for path in shards),
        packed_bytes=sum(entry.bytes for entry in packed["train"].files),
        document_lengths=token_count_histogram(shards),
        every_token_packed=is_complete,
    )


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
        return write_shards(shuffled, counts, self.writer, log=self.log)

    def _piece(self, number: int) -> Path:
        return self.folder / "pieces" / f"{number:05d}"

    def _documents(self, number: int, row_groups: list[int], speed: "_Speed") -> Iterator[NDArray[np.uint32]]:
        """Token ids of a piece's documents; those of the training split become a shard on their way."""
        is_kept = self.split == "train"
        columns = DOCUMENT_SCHEMA.names if is_kept else ["text"]
        batches = iterate_batches(self.source, columns, BATCH_DOCUMENTS, row_groups)
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
        "layout": config.model_dump(mode="json", exclude={"shuffle_memory_mb"}),
        "documents": {
            split: {"rows": pq.read_metadata(path).num_rows, "bytes": path.stat().st_size}
            for split, path in files.items()
        },
    }


@contextlib.contextmanager
def _claimed(workspace: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Hold a workspace alone, and hold its plan against that of the run that was killed there."""
    path = _made(workspace) / PLAN_FILE
    with (workspace / LOCK_FILE).open("w") as lock:  # a killed process lets go of it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"another process is working in {workspace}: wait until it is done") from error
        if not path.exists():
            part = workspace / f"{PLAN_FILE}.part"
            part.write_text(json.dumps(plan, indent=1))
            part.rename(path)
        for name, begun in json.loads(path.read_text()).items():
            if begun != plan[name]:
                raise ValueError(
                    f"{workspace} was begun with another {name} ({begun}, now {plan[name]}): remove it, or "
                    "use another workspace"
                )
        yield


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _link_files(source: Path, target: Path) -> None:
    """Give the files of a folder a second name in `target`; copy them where that is another disk."""
    for path in sorted(source.iterdir()):
        place = _made(target) / path.name
        try:
            os.link(path, place)
        except OSError:
            shutil.copyfile(path, place)


def _input_sum(folder: Path, manifest: PackManifest) -> int:
    """Sum of the ids at all input positions, read back by pyarrow, which checks every page."""
    total = 0
    for entry in manifest.files:
        with pq.ParquetFile(folder / entry.name, page_checksum_verification=True) as parquet:
            for group in range(parquet.num_row_groups):
                for chunk in parquet.read_row_group(group, [TOKENS]).column(TOKENS).chunks:
                    ids = np.frombuffer(chunk.buffers()[1], manifest.token_type)
                    rows = ids[chunk.offset * (manifest.seq_len + 1) :].reshape(-1, manifest.seq_len + 1)
                    total += int(rows[: len(chunk), :-1].sum(dtype=np.uint64))
    return total


def _expected_input_sum(counts: RowCounts, config: PackConfig) -> int:
    """Every token of the stream and the padding is an input once, but for the end-of-text at its very end."""
    end_of_text_inputs = counts.documents + counts.padding_tokens - 1
    return counts.token_sum + end_of_text_inputs * config.eos_id
