from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yunmin_assets.columnar import PackConfig
from yunmin_assets.columnar.rows import RowCutter, RowLayout, record_hash
from yunmin_assets.columnar.shuffling import rows_per_block


def cut(documents, **options):
    """Tokens [rows, seq_len + 1] and start bits [rows, seq_len] in the stream's order, and the counts."""
    config = PackConfig(**{"seq_len": 4, "vocab_size": 100, **options})
    cutter = RowCutter(config)
    layout = cutter.layout
    blocks = [layout.split(block) for block in cutter.blocks(documents)]
    tokens = np.concatenate([block[0].view(layout.token_type) for block in blocks])
    return tokens, np.concatenate([block[1] for block in blocks]), cutter.counts


def test_rows_overlap_by_one_token_and_the_last_one_is_filled_up():
    tokens, starts, counts = cut([[1, 1, 1], [2, 2], [3, 3, 3, 3]])
    assert tokens.tolist() == [[1, 1, 1, 0, 2], [2, 2, 0, 3, 3], [3, 3, 3, 0, 0]]
    assert starts.tolist() == [[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert (counts.documents, counts.document_tokens, counts.rows, counts.padding_tokens) == (3, 9, 3, 1)


documents = st.lists(st.lists(st.integers(1, 99), max_size=30), min_size=1, max_size=30)


@given(documents.filter(any), st.integers(1, 12))
def test_every_token_is_predicted_exactly_once(documents, seq_len):
    stream = [token for document in documents for token in (*document, 0)]
    tokens, _, counts = cut(documents, seq_len=seq_len)
    labels = tokens[:, 1:].ravel().tolist()
    assert labels == stream[1:] + [0] * counts.padding_tokens
    assert tokens[:, 0].tolist() == [stream[row * seq_len] for row in range(len(tokens))]
    assert counts.padding_tokens < seq_len


@given(documents.filter(any), st.integers(1, 12))
def test_a_document_starts_where_its_bit_is_set(documents, seq_len):
    lengths = [len(document) + 1 for document in documents]
    places = (np.cumsum(lengths) - lengths).tolist()
    _, starts, _ = cut(documents, seq_len=seq_len)
    assert np.flatnonzero(starts).tolist() == [place for place in places if place < starts.size]


def test_documents_longer_than_a_block_are_cut_without_a_seam():
    seq_len = 1000
    length = 3 * rows_per_block(2 * seq_len) * seq_len
    document = np.arange(length) % 30_000 + 1
    tokens, starts, _ = cut([document, document], seq_len=seq_len, vocab_size=40_000)
    stream = np.concatenate([document, [0], document, [0]])
    assert np.array_equal(tokens[:, :-1].ravel()[: len(stream)], stream[: tokens[:, :-1].size])
    assert np.array_equal(tokens[:, 1:].ravel()[: len(stream) - 1], stream[1:])
    assert np.flatnonzero(starts).tolist() == [0, length + 1]


def test_a_document_that_starts_with_a_block_keeps_its_start():
    seq_len = 1000
    layout = RowLayout.of(PackConfig(seq_len=seq_len))
    block_tokens = rows_per_block(layout.record_bytes) * seq_len
    _, starts, _ = cut([np.ones(block_tokens - 1, np.int64), [2, 3]], seq_len=seq_len)
    assert np.flatnonzero(starts).tolist() == [0, block_tokens]


@given(documents.filter(any), st.integers(1, 12), st.integers(0, 30))
def test_a_stream_that_is_written_down_goes_on_where_it_stood(documents, seq_len, stopped_before):
    config = PackConfig(seq_len=seq_len, vocab_size=100)
    first = RowCutter(config)
    before = [*first.blocks(documents[:stopped_before], is_last=False)]
    second = RowCutter.resume(config, first.state())
    records = np.concatenate([*before, *second.blocks(documents[stopped_before:])])
    undisturbed = RowCutter(config)
    assert np.array_equal(records, np.concatenate([*undisturbed.blocks(documents)]))
    assert second.counts == undisturbed.counts


def test_everything_that_goes_by_is_counted():
    tokens, starts, counts = cut([[1, 2], [], [3]])
    assert asdict(counts) == {
        "documents": 3,
        "document_tokens": 3,
        "rows": 2,
        "padding_tokens": 3,
        "record_hash": record_hash(RowLayout(4, "uint16").join(tokens, starts.astype(bool))),
    }
    assert counts.tokens == 6


def test_the_hash_of_rows_does_not_depend_on_their_order_or_their_blocks():
    records = np.random.default_rng(0).integers(0, 256, (50, 11), np.uint8)
    parts = [record_hash(part) for part in np.split(records[::-1], [7, 20])]
    assert record_hash(records) == sum(parts) % 2**64
    assert record_hash(records[:0]) == 0


@given(st.data())
def test_the_hash_of_rows_notices_every_exchange(data):
    layout = RowLayout(6, "uint16")
    tokens = np.arange(21, dtype="<u2").reshape(3, 7)
    starts = np.zeros((3, 6), np.bool_)
    before = record_hash(layout.join(tokens, starts))
    one, other = data.draw(st.lists(st.integers(0, 20), min_size=2, max_size=2, unique=True))
    exchanged = tokens.copy()
    exchanged.reshape(-1)[[one, other]] = tokens.reshape(-1)[[other, one]]
    assert record_hash(layout.join(exchanged, starts)) != before
    starts.reshape(-1)[data.draw(st.integers(0, 17))] = True
    assert record_hash(layout.join(tokens, starts)) != before


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32"), (2**32, "uint32")])
def test_tokens_take_two_bytes_unless_the_vocabulary_needs_four(vocab_size, dtype):
    tokens, _, _ = cut([[vocab_size - 1]], vocab_size=vocab_size)
    assert tokens.dtype == dtype
    assert tokens[0, 0] == vocab_size - 1


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([5, 100], r"document 1, token 1: id 100 is outside the vocabulary 0…99"),
        ([-1], r"document 1, token 0: id -1 is outside"),
        ([1.5], r"document 1 has dtype float64: token ids must be integers"),
        ([float("nan")], r"document 1 has dtype float64: token ids must be integers"),
        (np.ma.masked_equal([1, 2], 2), r"document 1 is a masked array.*compressed\(\)"),
        (["가"], r"document 1 has dtype <U1: token ids must be integers"),
        ([[1], [2]], r"document 1 has shape \(2, 1\)"),
    ],
)
def test_bad_token_ids_are_refused_with_their_place(document, message):
    with pytest.raises(ValueError, match=message):
        cut([[1], document])


def test_a_vocabulary_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit into 32-bit"):
        cut([[1]], vocab_size=2**32 + 1)
    with pytest.raises(ValueError, match="eos_id 100 is not in the vocabulary"):
        cut([[1]], eos_id=100)


def test_a_row_that_is_longer_than_a_page_is_refused():
    RowLayout.of(PackConfig(seq_len=32_767, vocab_size=500))
    with pytest.raises(
        ValueError, match=r"seq_len 32768 takes 65,538 bytes.*page of 65,536: raise page_bytes"
    ):
        RowLayout.of(PackConfig(seq_len=32_768, vocab_size=500))
    with pytest.raises(ValueError, match="does not fit into a page"):
        RowLayout.of(PackConfig(seq_len=20_000, vocab_size=70_000))
