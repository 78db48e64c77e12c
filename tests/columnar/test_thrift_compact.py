import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.columnar.thrift_compact import CompactReader, ThriftError, read_varints

# Encoded by hand after thrift-compact-protocol.md: a field header is (id step << 4 | type), an integer is a
# zigzag varint.
STRUCT = bytes(
    [
        *(0x15, 0xD8, 0x04),  # field 1, i32: 300
        *(0x16, 0x01),  # field 2, i64: -1
        *(0x18, 0x02, 0x68, 0x69),  # field 3, binary: "hi"
        *(0x11,),  # field 4, true
        *(0x12,),  # field 5, false
        *(0x19, 0x25, 0x02, 0x04),  # field 6, list of two i32: 1, 2
        *(0x1C, 0x15, 0x06, 0x00),  # field 7, struct with field 1, i32: 3
        *(0x05, 0x28, 0x0A),  # field 20 (long form), i32: 5
        *(0x17, 0, 0, 0, 0, 0, 0, 0xF8, 0x3F),  # field 21, double: 1.5
        *(0x13, 0x2A),  # field 22, byte: 42
        0x00,
    ]
)


def test_a_struct_encoded_by_hand_is_read():
    reader = CompactReader(b"--" + STRUCT + b"rest", position=2)
    assert reader.read_struct() == {
        1: 300,
        2: -1,
        3: b"hi",
        4: True,
        5: False,
        6: [1, 2],
        7: {1: 3},
        20: 5,
        21: 1.5,
        22: 42,
    }
    assert reader.position == 2 + len(STRUCT)


def test_a_long_list_has_its_length_after_the_header():
    reader = CompactReader(bytes([0x19, 0xF5, 20, *[0x02] * 20, 0x00]))
    assert reader.read_struct() == {1: [1] * 20}


def test_a_list_of_booleans():
    assert CompactReader(bytes([0x19, 0x32, 1, 2, 1, 0x00])).read_struct() == {1: [True, False, True]}


@pytest.mark.parametrize("length", range(len(STRUCT)))
def test_a_struct_that_is_cut_short_is_refused(length):
    with pytest.raises(ThriftError, match="ends"):
        CompactReader(STRUCT[:length]).read_struct()


def test_endless_nesting_and_unknown_types_are_refused():
    with pytest.raises(ThriftError, match="nested deeper"):
        CompactReader(b"\x1c" * 10_000).read_struct()
    with pytest.raises(ThriftError, match="nested deeper"):
        CompactReader(b"\x19" * 10_000).read_struct()
    with pytest.raises(ThriftError, match="unexpected Thrift type 11"):
        CompactReader(b"\x1b\x00").read_struct()


@given(st.binary(max_size=200))
def test_any_bytes_give_a_struct_or_a_thrift_error(data):
    with contextlib.suppress(ThriftError):
        assert isinstance(CompactReader(data).read_struct(), dict)


def varint(number):
    """Encoded by the definition: seven bits a byte, lowest first."""
    septets = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([septet | 0x80 for septet in septets[:-1]] + septets[-1:])


@given(st.lists(st.integers(0, 2**63 - 1)), st.binary(max_size=3), st.binary(max_size=12))
def test_many_varints_are_read_at_once(numbers, before, behind):
    data = before + b"".join(map(varint, numbers)) + behind
    assert read_varints(data, len(before), len(numbers)).tolist() == numbers


def test_varints_that_end_early_or_do_not_end_are_refused():
    with pytest.raises(ThriftError, match="3 numbers are announced at byte 1"):
        read_varints(b"\x01\x02\x03\x80", 1, 3)
    with pytest.raises(ThriftError, match="a number of 11 bytes"):
        read_varints(b"\xff" * 10 + b"\x01", 0, 1)


@given(st.binary(max_size=60), st.integers(0, 70))
def test_any_bytes_give_varints_or_a_thrift_error(data, count):
    with contextlib.suppress(ThriftError):
        assert len(read_varints(data, 0, count)) == count
