"""Read single data pages of a Parquet file: one `pread` per page.

Parquet libraries read whole column chunks (16 MB of tokens) to deliver one row. Here the OffsetIndex, which
the footer points to, tells where each page lies; a page is read, its CRC32 checked, and its payload viewed as
rows.
Source: apache/parquet-format, `parquet.thrift`, `PageIndex.md` and "Checksumming" in `README.md`.

It reads what `shard_writer` writes and refuses the rest by name: a REQUIRED FIXED_LEN_BYTE_ARRAY column,
PLAIN, v1 data pages, zstd or no compression, with checksums. CRCs cover the payloads; sizes and places in
headers, index and footer are held against each other, so damage there is found as well.

The training loader does not parse headers again for every page it reads: it keeps what this module found in
an index file (see shard_index).

Price: the index takes 16 bytes of memory per page, and about 1 ms per 1000 pages to parse.
"""

import os
import struct
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import zstandard
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from yunmin_assets.columnar.thrift_compact import STRUCT, CompactReader, ThriftError, read_varints

MAGIC = b"PAR1"
TAIL_BYTES = 8  # footer length as u32, then the magic

# Values of enumerations in parquet.thrift.
FIXED_LEN_BYTE_ARRAY, REQUIRED, DATA_PAGE, PLAIN = 7, 0, 0, 0
CODEC_NAMES = {0: "none", 6: "zstd"}

# A page's place in an OffsetIndex, as compact Thrift: field header, value, …, stop. A field header is one byte,
# (id step << 4 | type); types 5 and 6 are i32 and i64.
PAGE_PLACE_FIELDS = (0x16, 0x15, 0x16, 0x00)
OFFSET_INDEX_PAGES = 1  # field id of the list
LONGEST_HEADER = 128
"""Bytes that are read to parse a page header on its own; those without statistics take about 30."""

# Errors that parsed, but damaged, metadata gives rise to.
METADATA_ERRORS = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)


class DamagedFileError(ValueError):
    """A file is truncated, damaged or of another layout; the message names the file and the byte offset."""

    def __init__(self, path: Path | str, offset: int, problem: str):
        super().__init__(
            f"{path}: {problem}, at byte {offset}. Restore this file, or write the data set again."
        )
        self.path, self.offset = path, offset


@dataclass(frozen=True)
class PageIndex:
    """Where the pages of one column lie."""

    offsets: NDArray[np.int64]
    """[pages] first byte of the page header."""
    sizes: NDArray[np.int32]
    """[pages] bytes of header and payload."""
    rows: NDArray[np.int32]
    """[pages] rows of the page."""
    row_bytes: int
    codec: str


class PageReader:
    """Random access to the pages of one fixed-width column of one file.

    Example:
        with PageReader(Path("packed/shard-00000.parquet")) as reader:
            tokens = reader.read_page(0).view("<u2")
    """

    def __init__(self, path: Path, column: str = "tokens"):
        """Open a file and read its page index.

        Raises:
            FileNotFoundError: no such file.
            DamagedFileError: truncated, damaged, or a column of another layout.
        """
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self._closing = weakref.finalize(self, os.close, self._descriptor)
        self._file_bytes = os.fstat(self._descriptor).st_size
        self._decompressor = zstandard.ZstdDecompressor()
        try:
            self.index = self._read_index(column)
        except BaseException:
            self.close()
            raise

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return int(self.index.rows.sum())

    def read_page(self, page: int) -> NDArray[np.uint8]:
        """The rows of a page, uint8 [rows, row_bytes], read-only.

        Raises:
            DamagedFileError: the page is cut short, its checksum does not match, or its header contradicts
                the index.
        """
        offset, rows = int(self.index.offsets[page]), int(self.index.rows[page])
        data = self._read(offset, int(self.index.sizes[page]), f"page {page}")
        header_bytes, checksum = self._parse_header(page, data)
        payload: bytes | memoryview = memoryview(data)[header_bytes:]
        if crc32(payload) != checksum:
            self._fail(offset, f"the checksum of page {page} does not match its bytes")
        if self.index.codec == "zstd":
            payload = self._decompressor.decompress(payload, max_output_size=rows * self.index.row_bytes)
        return np.frombuffer(payload, np.uint8).reshape(rows, self.index.row_bytes)

    def read_header(self, page: int) -> tuple[int, int]:
        """Length of a page's header in bytes, and the CRC32 of the payload behind it.

        Raises:
            DamagedFileError: the header is damaged or contradicts the index.
        """
        size = min(int(self.index.sizes[page]), LONGEST_HEADER)
        return self._parse_header(page, self._read(int(self.index.offsets[page]), size, f"page {page}"))

    def close(self) -> None:
        """Close the file; also done when the reader is no longer referred to."""
        self._closing()

    def __enter__(self) -> "PageReader":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _parse_header(self, page: int, data: bytes) -> tuple[int, int]:
        """`read_header` of a page that begins with `data`."""
        reader = CompactReader(data)
        try:
            checksum = self._payload_checksum(reader, int(self.index.sizes[page]), int(self.index.rows[page]))
        except METADATA_ERRORS as error:
            self._fail(
                int(self.index.offsets[page]), f"the header of page {page} is damaged ({error})", error
            )
        return reader.position, checksum

    def _payload_checksum(self, reader: CompactReader, page_bytes: int, rows: int) -> int:
        """Parse a PageHeader and hold it against the index; leaves `reader` at the payload."""
        header = reader.read_struct()
        kind, uncompressed, compressed, checksum, data_page = (header[field] for field in (1, 2, 3, 4, 5))
        expected = {
            "page type": (kind, DATA_PAGE),
            "encoding": (data_page[2], PLAIN),
            "rows": (data_page[1], rows),
            "bytes of rows": (uncompressed, rows * self.index.row_bytes),
            "bytes of payload": (compressed, page_bytes - reader.position),
        }
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise ValueError(f"{name}: {found} instead of {wanted}")
        return checksum & 0xFFFFFFFF  # stored as a signed 32-bit integer

    def _read_index(self, column: str) -> PageIndex:
        size = self._file_bytes
        if size < len(MAGIC) + TAIL_BYTES:
            self._fail(size, "the file is too short for Parquet")
        footer_bytes, magic = struct.unpack("<I4s", self._read(size - TAIL_BYTES, TAIL_BYTES, "the end"))
        if magic != MAGIC:
            self._fail(
                size - len(MAGIC), "the file does not end as Parquet does, so it is probably truncated"
            )
        start = size - TAIL_BYTES - footer_bytes
        if start < len(MAGIC):
            self._fail(size - TAIL_BYTES, f"the footer is said to be {footer_bytes} bytes long")
        try:
            footer = CompactReader(self._read(start, footer_bytes, "the footer")).read_struct()
            return self._index_of(column, footer)
        except DamagedFileError:
            raise
        except METADATA_ERRORS as error:
            self._fail(start, f"the footer or page index is damaged ({error!r})", error)

    def _index_of(self, column: str, footer: dict[int, Any]) -> PageIndex:
        """FileMetaData → pages: 2 schema, 4 row groups (1 column chunks, 3 rows)."""
        elements = [element for element in footer[2] if element[4] == column.encode()]
        if [(element[1], element[3]) for element in elements] != [(FIXED_LEN_BYTE_ARRAY, REQUIRED)]:
            self._fail(0, f"no column {column!r} of type REQUIRED FIXED_LEN_BYTE_ARRAY")
        codecs, pages = set(), [np.empty((0, 3), np.int64)]
        for row_group in footer[4]:
            chunks = [chunk for chunk in row_group[1] if chunk[3][3] == [column.encode()]]
            pages.append(self._chunk_pages(chunks[0], row_group[3]))
            codecs.add(chunks[0][3][4])
        if len(codecs) != 1 or not codecs <= CODEC_NAMES.keys():
            self._fail(0, f"compression codecs {sorted(codecs)} where only zstd or none can be read")
        offsets, sizes, rows = np.concatenate(pages).T
        return PageIndex(
            np.ascontiguousarray(offsets),
            sizes.astype(np.int32),
            rows.astype(np.int32),
            elements[0][2],
            CODEC_NAMES[codecs.pop()],
        )

    def _chunk_pages(self, chunk: dict[int, Any], rows: int) -> NDArray[np.int64]:
        """ColumnChunk → int64 [pages, (offset, size, rows)], after checks that they fill the chunk without a
        gap.

        ColumnChunk: 3 metadata (7 bytes of the chunk, 9 its first byte), 4 and 5 place of the OffsetIndex.
        PageLocation: 1 offset, 2 size with header, 3 first row in the row group.
        """
        index_offset, index_bytes = chunk[4], chunk[5]
        offsets, sizes, first_rows = _page_places(self._read(index_offset, index_bytes, "the page index"))
        page_rows = np.diff(first_rows, append=rows)
        chunk_start, chunk_bytes = chunk[3][9], chunk[3][7]
        places = chunk_start + np.cumsum(sizes) - sizes
        if (
            not np.array_equal(offsets, places)
            or sizes.sum() != chunk_bytes
            or first_rows[0] != 0
            or (page_rows <= 0).any()
        ):
            self._fail(index_offset, "the page index contradicts the footer")
        return np.column_stack([offsets, sizes, page_rows])

    def _read(self, offset: int, size: int, what: str) -> bytes:
        if offset < 0 or size < 0 or offset + size > self._file_bytes:
            self._fail(offset, f"{what}, {size} bytes, lies outside the file of {self._file_bytes} bytes")
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:  # the file became shorter after it was opened
            self._fail(offset, f"{what} is cut short: {len(data)} of {size} bytes")
        return data

    def _fail(self, offset: int, problem: str, cause: BaseException | None = None) -> NoReturn:
        raise DamagedFileError(self.path, offset, problem) from cause


def _page_places(index: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """OffsetIndex → (offset, size, first row) of each page, int64 [pages].

    The list of pages is parsed as a whole: field headers and stop bytes are below 0x80, as one-byte varints
    are, so every page is seven varints in a row.

    Raises:
        ThriftError: the bytes are no OffsetIndex.
    """
    reader = CompactReader(index)
    pages = reader.read_list_header(OFFSET_INDEX_PAGES, STRUCT)
    varints = read_varints(index, reader.position, 7 * pages).reshape(pages, 7)
    if (varints[:, ::2] != PAGE_PLACE_FIELDS).any():
        raise ThriftError("a page's place has other fields than offset, size and first row")
    places = varints[:, 1::2]
    offsets, sizes, first_rows = ((places >> 1) ^ -(places & 1)).T  # zigzag
    return offsets, sizes, first_rows
