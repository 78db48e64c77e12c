"""The compiled normalisation says what the readable one says, and never trusts its bytes."""

import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.dedup.oracle import normalized
from yunmin_assets.dedup import DedupConfig, compute_signatures, normalize_text
from yunmin_assets.dedup.kernels import OK, normalize_utf8
from yunmin_assets.dedup.normalize import (
    CODE_POINTS_WITH_RULES,
    MALFORMED,
    MAYBE_NOT_NFC,
    normalization_table,
)

KOREAN = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3) | st.sampled_from(" .,!\n"))
ANY_TEXT = KOREAN | st.text(st.characters(exclude_categories=["Cs"]))


def compiled(
    data: bytes, punctuation: str = "ascii", before: bytes = b"", after: bytes = b""
) -> tuple[str, int, int]:
    """(normalised text, characters, status) of `data` somewhere in a larger buffer."""
    buffer = np.frombuffer(before + data + after, np.uint8)
    code_points = np.empty(len(data), np.uint32)
    table = normalization_table(punctuation)
    length, characters, status = normalize_utf8(
        buffer, len(before), len(before) + len(data), table, code_points
    )
    return "".join(map(chr, code_points[:length])), characters, status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\n", ""),
        ("...", ""),
        ("  Hello,\n\tWORLD!  ", "hello world"),
        ("a . b", "a b"),
        ("한국어, 텍스트.", "한국어 텍스트"),
        ("a\u3000b\u00a0c", "a b c"),
        ("𝐀😀𠀀", "𝐀😀𠀀"),
        ("\u0378\U0003ffff", "\u0378\U0003ffff"),  # unassigned code points stay as they are
        ("nul\0nul", "nul\0nul"),
        ("İΣ", "İσ"),
    ],
)
def test_examples_of_the_normalisation(text: str, expected: str) -> None:
    assert normalize_text(text) == expected
    assert compiled(text.encode())[0] == expected


def test_unicode_punctuation_takes_symbols_of_every_plane_out() -> None:
    text = "값은 「₩1,000」 — 좋아요 😀𝛁"
    assert normalize_text(text, "unicode") == "값은 1000 좋아요"
    assert compiled(text.encode(), "unicode")[0] == "값은 1000 좋아요"


@given(ANY_TEXT, st.sampled_from(["ascii", "unicode"]))
@settings(max_examples=200, deadline=None)
def test_kernel_equals_the_readable_definition(text: str, punctuation: str) -> None:
    composed = unicodedata.normalize("NFC", text)
    seen, characters, status = compiled(
        composed.encode(), punctuation, before="앞".encode(), after=b"\xea\xb0"
    )
    assert seen == normalize_text(text, punctuation)
    assert characters == len(composed)
    assert status in (OK, MAYBE_NOT_NFC)


@given(KOREAN)
@settings(deadline=None)
def test_definition_equals_slimpajamas_for_korean(text: str) -> None:
    assert normalize_text(text) == normalized(text)


@given(ANY_TEXT)
@example("각")
@example("e\u0301")
@example("\u2f81a")
@settings(max_examples=200, deadline=None)
def test_text_that_is_not_nfc_is_always_noticed(text: str) -> None:
    decomposed = unicodedata.normalize("NFD", text)
    for form in (text, decomposed):
        if not unicodedata.is_normalized("NFC", form):
            assert compiled(form.encode())[2] == MAYBE_NOT_NFC


def test_decomposed_hangul_is_signed_as_composed_hangul() -> None:
    composed = "맥에서 만든 파일은 자모가 풀려 있다"
    texts = pa.array([composed, unicodedata.normalize("NFD", composed), "다른 문서"])
    signatures = compute_signatures(texts, DedupConfig())
    assert (signatures.text_hash[0] == signatures.text_hash[1]).all()
    assert (signatures.minhash[0] == signatures.minhash[1]).all()
    assert signatures.characters.tolist() == [len(composed), len(composed), 5]


def test_no_character_beyond_those_with_rules_needs_any() -> None:
    for code_point in range(CODE_POINTS_WITH_RULES, sys.maxunicode + 1):
        character = chr(code_point)
        assert character.lower() == character and not character.isspace()
        assert unicodedata.is_normalized("NFC", character) and not unicodedata.combining(character)
        assert unicodedata.category(character)[0] not in "PS"


@given(st.binary(max_size=12), st.binary(max_size=4))
@example(b"\xea\xb0", b"\x80")
@example(b"\x80", b"")
@example(b"\xf0\x9f\x98", b"\x80")
@example(b"a\xbf", b"")
@example(b"\xff", b"")
@example(b"\xc0\x80", b"")
@example(b"\xf4\x90\x80\x80", b"")
@settings(max_examples=800, deadline=None)
def test_broken_utf8_is_noticed_and_bytes_after_the_text_do_not_matter(data: bytes, after: bytes) -> None:
    status = compiled(data, after=after)[2]
    assert status & MALFORMED == compiled(data)[2] & MALFORMED
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as problem:
        has_right_structure = "invalid continuation" in problem.reason and _is_overlong_or_too_large(data)
        assert status & MALFORMED or has_right_structure
    else:
        assert not status & MALFORMED


def _is_overlong_or_too_large(data: bytes) -> bool:
    """Whether lead and continuation bytes fit each other, so that only the value is too small or too large."""
    at = 0
    while at < len(data):
        lead = data[at]
        width = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        following = data[at + 1 : at + width]
        if 0x80 <= lead < 0xC2 or lead > 0xF4 or len(following) < width - 1:
            return False
        if any(byte & 0xC0 != 0x80 for byte in following):
            return False
        at += width
    return True


def test_a_text_that_is_not_utf8_is_refused_by_its_beginning() -> None:
    broken = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(np.array([0, 4, 9], np.int32)), pa.py_buffer(b"fine" + b"bad\xea\xb0")],
    )
    with pytest.raises(ValueError, match=r"begins with b'bad.* is not valid UTF-8"):
        compute_signatures(broken, DedupConfig())
