"""Texts become the same tokens however they are handed to the tokenizer."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.language_model.toy import save_toy_tokenizer, toy_texts
from yunmin_assets.pruning import encoding
from yunmin_assets.pruning.encoding import encode, split_text


@given(text=st.text("가나 \n.ab", max_size=80), characters=st.integers(1, 30))
def test_pieces_make_up_the_text(text: str, characters: int) -> None:
    pieces = list(split_text(text, characters))
    assert "".join(pieces) == text
    assert all(len(piece) <= characters for piece in pieces)
    for piece, following in itertools.pairwise(pieces):
        assert following.startswith(" ") or " " not in piece[1:]


def test_long_and_many_texts_are_encoded_like_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = save_toy_tokenizer(tmp_path)
    texts = ["", " ".join(toy_texts("law", 40)), *toy_texts("food", 30), "", "  두 칸\n새 줄 ", "x" * 300]
    expected = [[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]] for text in texts]
    monkeypatch.setattr(encoding, "CALL_CHARACTERS", 150)
    monkeypatch.setattr(encoding, "CALL_TEXTS", 4)
    monkeypatch.setattr(encoding.split_text, "__defaults__", (100,))
    found = [tokens.tolist() for tokens in encode(texts, tokenizer)]
    assert [tokens for tokens in found[:-1]] == expected[:-1]
    assert tokenizer.decode(found[-1][1:]) == texts[-1]  # a word of 300 letters was cut
