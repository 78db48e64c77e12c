"""The other tools: as their documentation shows them, and tuned as far as we know how.

All of them see what we see: SlimPajama's normalisation, character 13-grams, Jaccard 0.8. None of them
verifies its candidates here: they remove on the strength of a shared band (connected components, the
first document stays). That saves them work, so it favours them. Their bands suit a threshold of 0.8:
14 × 8, and for rensa 16 × 8, because it wants a power of two.

What the tuning is, beside a faster hash function:

- shingles are slices of one UTF-32 string of bytes, not strings that are hashed or encoded one by one;
- for `rensa-hashes`, numpy hashes the shingles and no Python object is made of them at all.

What all have in common is fast already: punctuation is deleted from UTF-8 bytes (three times as fast as
`str.translate`), bands are grouped by numpy and connected by scipy (Daft's `groupby` takes ten times the
CPU-seconds, rensa's index does not say who resembles whom). Only datasketch uses its own index.

Sources: datasketch's docs/minhash.rst and lsh.rst (`MinHash.bulk`, xxhash, `MinHashLSH`); rensa's README and
docstrings; Daft's docs/examples/minhash-dedupe.md.

This module runs in the peers' own environment (`peers.txt`): it must not import this package's code.
"""

import os
import string
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

NGRAM = 13
BYTES_PER_CHARACTER = 4  # UTF-32
BANDS, ROWS = 14, 8
RENSA_BANDS, RENSA_ROWS = 16, 8
SEED = 1
ASCII_PUNCTUATION = string.punctuation.encode()
WORD_SEPARATOR = "\u2581"
"""Stands for a space where a space separates tokens."""

DOCUMENTS_AT_A_TIME = 512
GOLDEN_RATIO = 0x9E3779B97F4A7C15
"""An odd 64-bit multiplier."""

Survivors = npt.NDArray[np.int64]
"""int64[n]: for each document the one that stays instead of it; itself if it stays."""


@dataclass(frozen=True)
class Peer:
    """Another tool.

    Attributes:
        about: how it is used, for the table.
        packages: what it is made of.
        find: large_string texts → survivors. Imports its packages itself.
    """

    about: str
    packages: tuple[str, ...]
    find: Callable[[pa.ChunkedArray], Survivors]


def normalized(text: str) -> str:
    """NFC, lower case, no ASCII punctuation, white space collapsed: what every tool compares."""
    lowered = unicodedata.normalize("NFC", text).lower()
    return " ".join(lowered.encode().translate(None, ASCII_PUNCTUATION).decode().split())


def datasketch_documented(texts: pa.ChunkedArray) -> Survivors:
    """`MinHash.bulk` of encoded strings with its default hash, SHA-1."""
    from datasketch import MinHash

    shingles = ([s.encode() for s in text_shingles(text)] for text in _normalized_texts(texts))
    return _datasketch_index(MinHash.bulk(shingles, num_perm=BANDS * ROWS, seed=SEED))


def datasketch_tuned(texts: pa.ChunkedArray) -> Survivors:
    """`MinHash.bulk` of slices of bytes with xxh32."""
    import xxhash
    from datasketch import MinHash

    shingles = map(byte_shingles, _normalized_texts(texts))
    minhashes = MinHash.bulk(shingles, num_perm=BANDS * ROWS, seed=SEED, hashfunc=xxhash.xxh32_intdigest)
    return _datasketch_index(minhashes)


def rensa_documented(texts: pa.ChunkedArray) -> Survivors:
    """R-MinHash of all shingles as strings."""
    from rensa import RMinHash

    shingles = map(text_shingles, _normalized_texts(texts))
    matrix = RMinHash.digest_matrix_from_token_sets(shingles, RENSA_BANDS * RENSA_ROWS, SEED)
    return _first_by_bands(np.array(matrix.to_rows(), np.uint32), RENSA_BANDS, RENSA_ROWS)


def rensa_tuned(texts: pa.ChunkedArray) -> Survivors:
    """R-MinHash of all shingles as slices of bytes."""
    from rensa import RMinHash

    shingles = map(byte_shingles, _normalized_texts(texts))
    matrix = RMinHash.digest_matrix_from_token_byte_sets(shingles, RENSA_BANDS * RENSA_ROWS, SEED)
    return _first_by_bands(np.array(matrix.to_rows(), np.uint32), RENSA_BANDS, RENSA_ROWS)


def rensa_hashes(texts: pa.ChunkedArray) -> Survivors:
    """R-MinHash through the interface for tokens that are hashed already, some documents at a time."""
    from rensa import RMinHash

    rows: list[list[int]] = []
    every_text = _normalized_texts(texts)
    while some := list(islice(every_text, DOCUMENTS_AT_A_TIME)):
        hashes = [shingle_hashes(text) for text in some]
        ends = np.cumsum([0, *map(len, hashes)]).astype(np.uint64)
        rows += RMinHash.digest_matrix_from_flat_token_hashes(
            np.concatenate(hashes), ends, RENSA_BANDS * RENSA_ROWS, SEED
        ).to_rows()
    return _first_by_bands(np.array(rows, np.uint32), RENSA_BANDS, RENSA_ROWS)


def daft_minhash(texts: pa.ChunkedArray) -> Survivors:
    """Daft's `normalize` and `minhash`. Its n-grams are of words, so spaces are set between characters.

    Daft composes no characters: texts are expected in NFC.
    """
    os.environ.update(DO_NOT_TRACK="true", DAFT_PROGRESS_BAR="0")  # no telemetry, no drawing
    import daft
    from daft.functions import list_join, lstrip, minhash, normalize, replace, split

    text = normalize(daft.col("text"), remove_punct=True, lowercase=True, white_space=True)
    spaced = lstrip(list_join(split(replace(text, " ", WORD_SEPARATOR), ""), " "))
    minima = minhash(
        spaced, num_hashes=BANDS * ROWS, ngram_size=NGRAM, seed=SEED, hash_function="murmurhash3"
    )
    table = daft.from_arrow(pa.table({"text": texts})).select(minima.alias("minima")).to_arrow()
    flat = table["minima"].combine_chunks().flatten().to_numpy()
    return _first_by_bands(flat.reshape(-1, BANDS * ROWS), BANDS, ROWS)


PEERS = {
    "datasketch": Peer("MinHash.bulk, SHA-1, MinHashLSH 14×8", ("datasketch",), datasketch_documented),
    "datasketch-tuned": Peer(
        "MinHash.bulk, xxh32 of slices of bytes, MinHashLSH 14×8", ("datasketch", "xxhash"), datasketch_tuned
    ),
    "rensa": Peer("RMinHash of strings, 16×8", ("rensa",), rensa_documented),
    "rensa-tuned": Peer("RMinHash of slices of bytes, 16×8", ("rensa",), rensa_tuned),
    "rensa-hashes": Peer("RMinHash of hashes that our numpy code makes, 16×8", ("rensa",), rensa_hashes),
    "daft": Peer("normalize and minhash on spaced characters, 14×8", ("daft",), daft_minhash),
}


def text_shingles(text: str) -> list[str]:
    """Character 13-grams; a shorter text is one shingle."""
    return [text[start : start + NGRAM] for start in range(max(len(text) - NGRAM, 0) + 1)]


def byte_shingles(text: str) -> list[bytes]:
    """Character 13-grams as UTF-32 bytes; a shorter text is one shingle."""
    data = text.encode("utf-32-le")
    width = NGRAM * BYTES_PER_CHARACTER
    last = max(len(data) - width, 0)
    return [data[start : start + width] for start in range(0, last + 1, BYTES_PER_CHARACTER)]


def shingle_hashes(text: str) -> npt.NDArray[np.uint64]:
    """Polynomial hashes mod 2⁶⁴ of the character 13-grams."""
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64) + np.uint64(1)
    window = min(NGRAM, characters.size)
    hashes = np.zeros(max(characters.size - NGRAM + 1, 1), np.uint64)
    for offset in range(window):
        factor = np.uint64(pow(GOLDEN_RATIO, window - offset, 1 << 64))
        hashes += characters[offset : offset + hashes.size] * factor
    return hashes


def _normalized_texts(texts: pa.ChunkedArray) -> Iterator[str]:
    return (normalized(text) for chunk in texts.chunks for text in chunk.to_pylist())


def _datasketch_index(minhashes: list[Any]) -> Survivors:
    """Query and insert one by one, then connect."""
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    pairs = []
    for document, minhash in enumerate(minhashes):
        pairs += [(document, other) for other in index.query(minhash)]
        index.insert(document, minhash, check_duplication=False)
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return _first_of_component(len(minhashes), first, second)


def _first_by_bands(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> Survivors:
    """Connect documents that agree in a band: uint32[n, bands · rows] → survivors."""
    firsts = []
    for band in range(bands):
        keys = np.zeros(len(signatures), np.uint64)
        for row in range(band * rows, (band + 1) * rows):
            keys = (keys ^ signatures[:, row]) * np.uint64(GOLDEN_RATIO)
            keys ^= keys >> np.uint64(32)
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        firsts.append(first[group])
    documents = np.tile(np.arange(len(signatures)), bands)
    return _first_of_component(len(signatures), documents, np.concatenate(firsts))


def _first_of_component(count: int, first: Survivors, second: Survivors) -> Survivors:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges: Any = coo_array((np.ones(first.size, np.bool_), (first, second)), shape=(count, count))
    _, component = connected_components(edges, directed=False)
    _, first_of, group = np.unique(component, return_index=True, return_inverse=True)
    return first_of[group]
