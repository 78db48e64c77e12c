"""Read Thrift's compact protocol, in which Parquet writes its footer, page index and page headers.

A struct becomes a dictionary from field id to value; the ids are those of `parquet.thrift` in
apache/parquet-format.
Source: "Thrift Compact protocol encoding", apache/thrift doc/specs/thrift-compact-protocol.md. Maps and UUIDs
    do not occur in Parquet and are refused.
"""

import struct
from typing import Any

MAX_NESTING = 32  # Parquet nests six deep; more is damage
LONG_LIST = 15  # in a list header: the length follows as a varint

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, _MAP, STRUCT = range(1, 13)


class ThriftError(ValueError):
    """The bytes are not what the compact protocol allows here."""


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
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise ThriftError(f"structs nested deeper than {MAX_NESTING} at byte {self.position}")
        fields: dict[int, Any] = {}
        field_id = 0
        while header := self._byte():
            step, kind = header >> 4, header & 0x0F
            field_id = field_id + step if step else self._integer()
            fields[field_id] = kind == TRUE if kind in (TRUE, FALSE) else self._value(kind)
        self._depth -= 1
        return fields

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
        header = self._byte()
        length, kind = header >> 4, header & 0x0F
        if length == LONG_LIST:
            length = self._varint()
        if kind in (TRUE, FALSE):
            return [self._byte() == TRUE for _ in range(length)]
        return [self._value(kind) for _ in range(length)]

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
