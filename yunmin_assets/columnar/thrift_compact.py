"""Read Thrift's compact protocol, in which Parquet writes its footer, page index and page headers.

A struct becomes a dictionary from field id to value; the ids are those of `parquet.thrift` in
apache/parquet-format.
Source: "Thrift Compact protocol encoding", apache/thrift doc/specs/thrift-compact-protocol.md. Maps and UUIDs
    do not occur in Parquet and are refused.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_NESTING = 32  # Parquet nests six deep; more is damage
LONG_LIST = 15  # in a list header: the length follows as a varint

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, _MAP, STRUCT = range(1, 13)


LONGEST_VARINT = 9  # bytes of a varint below 2^63


class ThriftError(ValueError):
    """The bytes are not what the compact protocol allows here."""


def read_varints(data: bytes, start: int, count: int) -> NDArray[np.int64]:
    """Read `count` varints that lie one after the other from byte `start` on, all at once; int64 [count].

    Raises:
        ThriftError: the bytes end early, or a number takes more than 63 bits.
    """
    found = np.frombuffer(data, np.uint8, offset=start)
    ends = np.flatnonzero(found < 0x80)[:count]
    if len(ends) < count:
        raise ThriftError(f"{count} numbers are announced at byte {start}, but the data ends first")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    longest = int(lengths.max(initial=0))
    if longest > LONGEST_VARINT:
        raise ThriftError(f"a number of {longest} bytes after byte {start}")
    numbers = np.zeros(count, np.int64)
    for place in range(longest):
        is_longer = lengths > place
        septets = found[starts[is_longer] + place].astype(np.int64) & 0x7F
        numbers[is_longer] |= septets << (7 * place)
    return numbers


class CompactReader:
    """Reads values one after the other from `data`, from byte `position` on."""

    def __init__(self, data: bytes, position: int = 0):
        self._data = data
        self.position = position
        self._depth = 0

    def read_struct(self) -> dict[int, Any]:
        """Read a struct up to its stop byte.

        Raises:
            ThriftError: the bytes end early, or hold a type that Parquet does not use.
        """
        self._go_deeper()
        fields: dict[int, Any] = {}
        field_id = 0
        while header := self._byte():
            step, kind = header >> 4, header & 0x0F
            field_id = field_id + step if step else self._integer()
            fields[field_id] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind)
        self._depth -= 1
        return fields

    def read_list_header(self, field_id: int, kind: int) -> int:
        """Enter a struct whose first field is a list of `kind`; return its length and stay at its start.

        Raises:
            ThriftError: the struct begins with something else.
        """
        begin = self.position
        header, elements = self._byte(), self._byte()
        if header != field_id << 4 | LIST or elements & 0x0F != kind:
            raise ThriftError(f"no list of type {kind} as field {field_id} at byte {begin}")
        length = elements >> 4
        return self._varint() if length == LONG_LIST else length

    def _value(self, kind: int) -> Any:
        if kind in (I16, I32, I64):
            return self._integer()
        if kind == BINARY:
            return self._take(self._varint())
        if kind in (LIST, SET):
            return self._list()
        if kind == STRUCT:
            return self.read_struct()
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        raise ThriftError(f"unexpected Thrift type {kind} at byte {self.position}")

    def _list(self) -> list[Any]:
        self._go_deeper()
        header = self._byte()
        length, kind = header >> 4, header & 0x0F
        if length == LONG_LIST:
            length = self._varint()
        is_of_truths = kind in (TRUE, FALSE)
        values = [self._byte() == TRUE if is_of_truths else self._value(kind) for _ in range(length)]
        self._depth -= 1
        return values

    def _go_deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise ThriftError(f"nested deeper than {MAX_NESTING} at byte {self.position}")

    def _integer(self) -> int:
        """Zigzag: 0, 1, 2, 3, … stand for 0, -1, 1, -2, …"""
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        """Seven bits a byte, lowest first; the high bit says that more follow."""
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def _byte(self) -> int:
        if self.position >= len(self._data):
            raise ThriftError(f"the data ends at byte {self.position}, inside a value")
        byte = self._data[self.position]
        self.position += 1
        return byte

    def _take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self._data):
            raise ThriftError(
                f"{length} bytes are announced at byte {self.position}, but the data ends first"
            )
        taken = bytes(self._data[self.position : end])
        self.position = end
        return taken
