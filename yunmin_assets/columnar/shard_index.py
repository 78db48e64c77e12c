"""The index of a packed shard: all that a loader needs to know about its pages before it reads them.

    shard-00000.index.safetensors
        offset, size    int64, int32 [pages]   place of each page's payload in the shard
        rows            int32 [pages]
        checksum        uint32 [pages]         CRC32 of the payload
        starts_end      int64 [pages]          document starts up to the end of each page
        starts          uint32 [documents]     row in the page × seq_len + input position, page after page
        domain          uint16 [rows]          number of the row's domain in the file's list `domains`

It holds nothing that the Parquet file does not say: `index_of_shard` makes it from the footer, the page
headers and the columns `doc_start` and `domain`. Kept beside the shard, it spares every start of a training
run that work, and pyarrow's 40 MB with it. Its SHA-256 stands in the manifest.

Price: 28 bytes per page in memory. On disk these, 4 bytes per document and 2 per row: of 16-bit tokens 0.3 %
for documents of 1000 tokens, 18 % for documents of 10. `starts` and `domain` stay there and are read page by
page, so memory does not grow with the documents; but making an index takes the 4 bytes per document.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yunmin_assets.columnar.open_files import OpenFile
from yunmin_assets.columnar.page_reader import DamagedFileError, PageReader
from yunmin_assets.files import flush, sha256_of

INDEX_SUFFIX = ".index.safetensors"
DOC_START, DOMAIN = "doc_start", "domain"

PAGE_ARRAYS = {
    "offset": np.int64,
    "size": np.int32,
    "rows": np.int32,
    "checksum": np.uint32,
    "starts_end": np.int64,
}
SAFETENSORS_TYPES = {np.int64: "I64", np.uint32: "U32", np.int32: "I32", np.uint16: "U16"}
HEADER_LENGTH_BYTES = 8  # of a safetensors file: a little-endian number, then that many bytes of JSON
BLOCK_BYTES = 16 * 1024 * 1024
LABELS_DO_NOT_FIT = f"{DOC_START} or {DOMAIN} does not fit the manifest"


def index_name(shard: str) -> str:
    """File name of a shard's index."""
    return shard.removesuffix(".parquet") + INDEX_SUFFIX


@dataclass(frozen=True)
class ShardIndex:
    """An index, its page arrays in memory and the rest on disk. See the module's text for the arrays."""

    offset: NDArray[np.int64]
    size: NDArray[np.int32]
    rows: NDArray[np.int32]
    checksum: NDArray[np.uint32]
    starts_end: NDArray[np.int64]
    domains: list[str]
    """Names of the shard's domains."""
    open_file: Callable[[], OpenFile]
    """Gives the index file, open, for `starts` and `domain_numbers`."""
    starts_offset: int
    domain_offset: int

    @classmethod
    def read(cls, open_file: Callable[[], OpenFile]) -> "ShardIndex":
        """Read an index.

        Raises:
            ValueError, KeyError: the file is no index.
        """
        file = open_file()
        length = int.from_bytes(file.read(0, HEADER_LENGTH_BYTES), "little")
        header = json.loads(file.read(HEADER_LENGTH_BYTES, length))
        begin = HEADER_LENGTH_BYTES + length
        places = {
            name: begin + header[name]["data_offsets"][0] for name in (*PAGE_ARRAYS, "starts", "domain")
        }
        arrays = {}
        for name, dtype in PAGE_ARRAYS.items():
            (count,) = header[name]["shape"]
            arrays[name] = np.frombuffer(file.read(places[name], count * np.dtype(dtype).itemsize), dtype)
        domains = json.loads(header["__metadata__"]["domains"])
        return cls(
            **arrays,
            domains=domains,
            open_file=open_file,
            starts_offset=places["starts"],
            domain_offset=places["domain"],
        )

    def first_row(self, page: int) -> int:
        """Number of a page's first row in the shard."""
        return int(self.rows[:page].sum())

    def starts(self, page: int) -> NDArray[np.uint32]:
        """Document starts of a page: row in the page × seq_len + input position."""
        begin = int(self.starts_end[page - 1]) if page else 0
        return self._read(np.uint32, self.starts_offset, begin, int(self.starts_end[page]) - begin)

    def domain_numbers(self, first_row: int, rows: int) -> NDArray[np.uint16]:
        """Places in `domains` of consecutive rows of the shard."""
        return self._read(np.uint16, self.domain_offset, first_row, rows)

    def _read(self, dtype: type, offset: int, begin: int, count: int) -> NDArray:
        size = np.dtype(dtype).itemsize
        file = self.open_file()
        data = file.read(offset + begin * size, count * size)
        if len(data) != count * size:
            raise DamagedFileError(file.path, offset + begin * size, "the page index ends early")
        return np.frombuffer(data, dtype)


def block_starts(page_rows: NDArray[np.int32], row_bytes: int) -> NDArray[np.int64]:
    """First pages of a shard's blocks: runs of pages that hold about 16 MB of tokens, as a row group does.

    A block is what is fetched at once from a remote store.
    """
    begin_of_page = (np.cumsum(page_rows, dtype=np.int64) - page_rows) * row_bytes
    return np.flatnonzero(np.diff(begin_of_page // BLOCK_BYTES, prepend=-1))


def write_shard_index(shard: Path, seq_len: int) -> str:
    """Write the index of a finished shard beside it and return its SHA-256.

    Raises:
        DamagedFileError: the shard cannot be read back.
    """
    path = shard.with_name(index_name(shard.name))
    with path.open("wb") as file:
        file.writelines(index_of_shard(shard, seq_len))
    flush(path)
    return sha256_of(path)


def open_shard_index(
    shard: Path, sha256: str | None, seq_len: int, opened: Callable[[Path], OpenFile]
) -> ShardIndex:
    """The index beside a shard, or one made from the shard when it was packed without.

    Args:
        opened: opens files (see open_files).
        sha256: of the index file; None when there is none.

    Raises:
        FileNotFoundError: the index is missing.
        DamagedFileError: the index or the shard is damaged.
    """
    if sha256 is None:
        return index_from_bytes(b"".join(index_of_shard(shard, seq_len)))
    path = shard.with_name(index_name(shard.name))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the manifest lists it beside {shard.name}")
    check_index(path, path.read_bytes(), sha256)
    return ShardIndex.read(partial(opened, path))


def check_index(path: Path | str, data: bytes, sha256: str) -> None:
    """Compare the content of an index file with the manifest.

    Raises:
        DamagedFileError: it is not what was written.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedFileError(path, 0, "the page index is not the one in the manifest (SHA-256)")


def index_from_bytes(data: bytes) -> ShardIndex:
    """An index that lies in no file: it goes to an unnamed temporary one, which stays open."""
    with tempfile.NamedTemporaryFile(suffix=INDEX_SUFFIX) as file:
        file.write(data)
        file.flush()
        opened = OpenFile(file.name)
    return ShardIndex.read(lambda: opened)


def index_of_shard(shard: Path, seq_len: int) -> list[bytes | memoryview]:
    """Make the index of a shard from the Parquet file alone: the content of the file, in pieces.

    Raises:
        DamagedFileError: the shard is damaged, or of another layout.
    """
    with PageReader(shard) as reader:
        places = reader.index
        headers = np.array([reader.read_header(page) for page in range(len(places.rows))], np.int64)
        labels = _Labels.read(reader, seq_len)
    header_bytes, checksums = headers.reshape(-1, 2).T
    # In the order in which safetensors itself would write them.
    arrays: dict[str, list[NDArray]] = {
        "offset": [places.offsets + header_bytes],
        "starts_end": [labels.starts_end],
        "checksum": [checksums.astype(np.uint32)],
        "starts": labels.starts,
        "rows": [places.rows],
        "size": [(places.sizes - header_bytes).astype(np.int32)],
        "domain": labels.domain,
    }
    return _safetensors(arrays, {"domains": json.dumps(labels.domains, ensure_ascii=False)})


def _safetensors(
    arrays: Mapping[str, list[NDArray]], metadata: Mapping[str, str]
) -> list[bytes | memoryview]:
    """Arrays of one dimension, each in pieces, as a safetensors file; its own writer copies them all twice."""
    header: dict[str, Any] = {"__metadata__": metadata}
    begin = 0
    for name, pieces in arrays.items():
        end = begin + sum(piece.nbytes for piece in pieces)
        kind = SAFETENSORS_TYPES[pieces[0].dtype.type]
        header[name] = {"dtype": kind, "shape": [sum(map(len, pieces))], "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_LENGTH_BYTES)
    content = (piece.data for pieces in arrays.values() for piece in pieces)
    return [len(text).to_bytes(HEADER_LENGTH_BYTES, "little"), text, *content]


@dataclass(frozen=True)
class _Labels:
    """Columns `doc_start` and `domain` as the index has them; the long ones with a piece per row group."""

    starts: list[NDArray[np.uint32]]
    starts_end: NDArray[np.int64]
    domain: list[NDArray[np.uint16]]
    domains: list[str]

    @classmethod
    def read(cls, reader: PageReader, seq_len: int) -> "_Labels":
        """Read them row group by row group.

        Raises:
            DamagedFileError: they cannot be read, or do not fit the shard.
        """
        page_rows = reader.index.rows
        row_in_page = np.arange(reader.rows) - np.repeat(np.cumsum(page_rows) - page_rows, page_rows)
        first_start = (row_in_page * seq_len).astype(np.uint32)
        starts, domain, counts = [np.empty(0, np.uint32)], [np.empty(0, np.uint16)], [np.zeros(1, np.int32)]
        numbers: dict[str, int] = {}
        done = 0
        for positions, starts_of_rows, names in _row_groups(reader.path):
            rows = slice(done, done + len(starts_of_rows))
            done = rows.stop
            outside = ((positions < 0) | (positions >= seq_len)).any()
            if done > reader.rows or len(names) != len(starts_of_rows) or outside or names.null_count:
                raise DamagedFileError(reader.path, 0, LABELS_DO_NOT_FIT)
            counts.append(starts_of_rows)
            starts.append(np.repeat(first_start[rows], starts_of_rows) + positions.astype(np.uint32))
            of_group = [numbers.setdefault(name, len(numbers)) for name in names.dictionary.to_pylist()]
            domain.append(np.array(of_group, np.uint16)[names.indices.to_numpy()])
        if done != reader.rows:
            raise DamagedFileError(reader.path, 0, LABELS_DO_NOT_FIT)
        starts_before_row = np.cumsum(np.concatenate(counts), dtype=np.int64)
        return cls(starts, starts_before_row[np.cumsum(page_rows)], domain, list(numbers))


def _row_groups(path: Path) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], Any]]:
    """Of each row group the positions in `doc_start`, how many each row has, and `domain` as a dictionary array.

    Raises:
        DamagedFileError: they cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, [DOC_START, DOMAIN], use_threads=False)
                lists, names = table[DOC_START].combine_chunks(), table[DOMAIN].combine_chunks()
                counts = np.diff(lists.offsets.to_numpy())
                yield lists.flatten().to_numpy(), counts, names.dictionary_encode()
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
        # pyarrow checks the pages; damaged column names and types turn up as any of these
        raise DamagedFileError(path, 0, f"{DOC_START} or {DOMAIN} cannot be read ({error})") from error
