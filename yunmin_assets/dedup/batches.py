"""Components packed into batches that fit into memory, and their documents brought together.

A component can be decided by itself, so whole components are packed, in the order of their roots, into
batches of bounded cost. One pass over signatures and texts, row group by row group, deals the documents
out to one Arrow file per batch (as a partitioned hash join does); a batch is then mapped back, not
loaded. A document that repeats another one's text is dealt out without its text.

A component that is larger than the limit becomes a batch of its own; see `decisions.decide_batch`.

Price: 17 bytes per document while batches are planned; every candidate's text is written once and read
once, unless all of them fit into one batch.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from yunmin_assets.compiling import kernel
from yunmin_assets.dedup.components import Components
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.key_files import naming
from yunmin_assets.dedup.signature_files import flat_values, read_part, signature_parts, signatures_of
from yunmin_assets.dedup.signatures import Signatures
from yunmin_assets.files import new_folder
from yunmin_assets.progress import Log, Progress

# mypy: allow-untyped-defs
# numba infers the types of the kernels; the docstrings state them.

NO_BATCH = -1
BYTES_PER_SHINGLE = 8
BYTES_PER_TEXT = 2048
"""Signature, band keys, bucket numbers and what sorting needs, at 126 permutations and 21 bands."""
BYTES_PER_DOCUMENT = 256
"""Id, rank and decision."""
RANK_COLUMNS = ("id", "quality", "characters", "n_shingles", "text_hash")
SIGNED_COLUMNS = (*RANK_COLUMNS, "signature")


@dataclass(frozen=True)
class Domain:
    """One domain's files.

    Attributes:
        name: the domain.
        sources: Parquet files of documents, the ones that were signed.
        signatures: folder of their signatures.
        first: number of its first document.
        count: how many it has.
    """

    name: str
    sources: tuple[Path, ...]
    signatures: Path
    first: int
    count: int

    def files(self) -> Iterator[tuple[Path, Path]]:
        """Every source with its signatures.

        Raises:
            ValueError: documents and signatures do not belong together.
        """
        parts = signature_parts(self.signatures)
        pairs = list(zip(self.sources, parts, strict=False))
        if len(self.sources) != len(parts) or any(_group_rows(a) != _group_rows(b) for a, b in pairs):
            raise ValueError(self.complaint())
        yield from pairs

    def every_file(self) -> list[Path]:
        """All files that decisions depend on."""
        return [*self.sources, *sorted(self.signatures.glob("*.parquet"))]

    def complaint(self) -> str:
        """What to say of signatures that are not those of the documents."""
        return (
            f"{self.name}: {self.signatures} was not made from these documents: compute the signatures again"
        )


def plan_batches(
    domains: Sequence[Domain], components: Components, limit_bytes: int
) -> tuple[npt.NDArray[np.int32], bool]:
    """Pack the documents that have to be decided into batches.

    To be decided are the members of components of two and more documents, of which at least one is fresh.

    Returns:
        The batch of every document, `NO_BATCH` for the others: int32[n]. And whether all fit into the limit.
    """
    totals = np.zeros(components.roots.size, np.int64)
    for domain in domains:
        first = domain.first
        for _, part in domain.files():
            table = read_part(part, columns=["bytes", "n_shingles"])
            shingle_bytes = BYTES_PER_SHINGLE * table["n_shingles"].to_numpy().astype(np.int64)
            costs = BYTES_PER_TEXT + table["bytes"].to_numpy() + shingle_bytes
            costs[components.repeats[first : first + costs.size]] = 0
            _add_costs(components.roots[first : first + costs.size], costs + BYTES_PER_DOCUMENT, totals)
            first += costs.size
    batch_of = _assign(components.roots, components.fresh, totals, limit_bytes)
    is_root = components.roots == np.arange(components.roots.size)
    return batch_of, int(totals[is_root & (batch_of != NO_BATCH)].sum()) <= limit_bytes


@dataclass(frozen=True)
class Batches:
    """Documents by batch: in `folder`, a folder of Arrow files each, or in memory if all fit.

    A table holds document uint32 (its number), domain, id, quality, characters, n_shingles, text_hash, and
    signature (uint32s as bytes) and text, which are empty and null for a repeated text.
    """

    count: int
    folder: Path
    single: pa.Table | None = None

    def read(self, batch: int) -> pa.Table:
        """A batch; a file is mapped, so that its pages come when they are needed and go without harm."""
        if self.single is not None:
            return self.single
        pieces = sorted((self.folder / _batch_folder(batch)).iterdir())
        return pa.concat_tables([_mapped(piece) for piece in pieces])


def gather(
    domains: Sequence[Domain], components: Components, batch_of: npt.NDArray[np.int32], folder: Path,
    memory_bytes: int, *, in_memory: bool, log: Log,
) -> Batches:  # fmt: skip
    """Bring the documents of every batch together.

    Args:
        domains: their files.
        components: which documents repeat another one's text.
        batch_of: what `plan_batches` returned.
        folder: for the files. If it exists, it is complete, and used.
        memory_bytes: how much to hold before it is written.
        in_memory: all documents fit, so no files are needed.
        log: progress.
    """
    count = int(batch_of.max(initial=NO_BATCH)) + 1
    if folder.exists():
        return Batches(count, folder)
    with Progress(log, "candidates gathered", int(np.count_nonzero(batch_of != NO_BATCH))) as progress:
        selected = _selected(domains, components, batch_of, progress)
        if count and in_memory:
            return Batches(count, folder, pa.concat_tables([table for table, _ in selected]))
        with new_folder(folder) as part:
            _deal_out(selected, part, memory_bytes)
    return Batches(count, folder)


def signatures_in(batch: pa.Table, config: DedupConfig) -> Signatures:
    """The signatures of a batch; minhash and band keys only of the documents whose text is there."""
    values = [np.empty(0, np.uint8)]
    for chunk in batch["signature"].chunks:
        _, offsets, data = chunk.buffers()
        edges = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        values.append(np.frombuffer(data, np.uint8)[edges[0] : edges[-1]])
    minhash = np.concatenate(values).view(np.uint32).reshape(-1, config.num_perm)
    return signatures_of(batch, minhash, config)


def _batch_folder(batch: int) -> str:
    return f"batch-{batch:05d}"


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _deal_out(
    selected: Iterable[tuple[pa.Table, npt.NDArray[np.int32]]], folder: Path, memory_bytes: int
) -> None:
    """Write documents to their batches' folders, a file for each time that memory is full."""
    waiting: dict[int, list[pa.Table]] = defaultdict(list)
    size = turn = 0
    for table, batches in selected:
        for batch in np.unique(batches).tolist():
            waiting[batch].append(table.filter(pa.array(batches == batch)))
        size += table.nbytes
        if size >= memory_bytes:
            _write_pieces(waiting, folder, turn)
            size, turn = 0, turn + 1
    _write_pieces(waiting, folder, turn)


def _write_pieces(waiting: dict[int, list[pa.Table]], folder: Path, turn: int) -> None:
    for batch, tables in waiting.items():
        path = folder / _batch_folder(batch) / f"{turn:06d}.arrow"
        path.parent.mkdir(exist_ok=True)
        with pa.ipc.new_file(str(path), tables[0].schema) as writer:
            writer.write_table(pa.concat_tables(tables).combine_chunks())
    waiting.clear()
    pa.default_memory_pool().release_unused()


def _selected(
    domains: Sequence[Domain], components: Components, batch_of: npt.NDArray[np.int32], progress: Progress
) -> Iterator[tuple[pa.Table, npt.NDArray[np.int32]]]:
    """The documents that are in a batch, a row group at a time, and their batches."""
    for domain in domains:
        first = domain.first
        for source, part in domain.files():
            with (
                pq.ParquetFile(source, page_checksum_verification=True) as texts,
                pq.ParquetFile(part, page_checksum_verification=True) as signed,
            ):
                for group, rows in enumerate(_group_rows(source)):
                    batches = batch_of[first : first + rows]
                    chosen = np.flatnonzero(batches != NO_BATCH)
                    if chosen.size:
                        is_repeat = components.repeats[first + chosen]
                        with naming(part):
                            signatures = signed.read_row_group(
                                group, columns=SIGNED_COLUMNS, use_threads=False
                            )
                        with naming(source, "clean the corpus again"):
                            table = _row_group(domain, texts, signatures, group, first, chosen, is_repeat)
                        yield table, batches[chosen]
                        progress.advance(chosen.size)
                    first += rows


def _row_group(
    domain: Domain, texts: pq.ParquetFile, signed: pa.Table, group: int, first: int,
    chosen: npt.NDArray[np.int64], is_repeat: npt.NDArray[np.bool_],
) -> pa.Table:  # fmt: skip
    text = pa.nulls(chosen.size, pa.large_string())
    if not is_repeat.all():
        with_text = pa.array(np.where(is_repeat, 0, chosen), mask=is_repeat)
        documents = texts.read_row_group(group, columns=["id", "text"], use_threads=False)
        if not documents["id"].cast(pa.string()).equals(signed["id"]):
            raise ValueError(domain.complaint())
        text = documents["text"].cast(pa.large_string()).take(with_text)
    columns = {
        "document": pa.array(first + chosen, pa.uint32()),
        "domain": pa.array([domain.name] * chosen.size, pa.string()),
        **{name: signed[name].take(pa.array(chosen)) for name in RANK_COLUMNS},
        "signature": _signatures_as_bytes(signed["signature"].take(pa.array(chosen[~is_repeat])), is_repeat),
        "text": text,
    }
    return pa.table(columns)


def _signatures_as_bytes(minhash: pa.ChunkedArray, is_repeat: npt.NDArray[np.bool_]) -> pa.Array:
    """The signatures of who does not repeat, and no bytes for who does: fixed-size lists would take room."""
    values = flat_values(minhash, np.uint32, minhash.type.list_size)
    sizes = np.where(is_repeat, 0, values.itemsize * values.shape[1])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values.tobytes())]
    return pa.Array.from_buffers(pa.large_binary(), is_repeat.size, buffers)


def _group_rows(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return [count for count in rows if count]  # an empty file may have an empty group


@kernel
def _add_costs(roots, costs, totals):
    for at in range(roots.size):
        totals[roots[at]] += costs[at]


@kernel
def _assign(roots, fresh, totals, limit):
    members = np.zeros(roots.size, np.uint32)
    touched = np.zeros(roots.size, np.bool_)
    for document in range(roots.size):
        members[roots[document]] += np.uint32(1)
        touched[roots[document]] |= fresh[document]
    batch_of = np.full(roots.size, NO_BATCH, np.int32)
    batch = filled = 0
    for document in range(roots.size):
        root = roots[document]
        if members[root] < 2 or not touched[root]:
            continue
        if root == document:  # roots come before their members
            if filled > 0 and filled + totals[root] > limit:
                batch, filled = batch + 1, 0
            filled += totals[root]
            batch_of[document] = batch
        else:
            batch_of[document] = batch_of[root]
    return batch_of
