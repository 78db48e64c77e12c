"""MinHash signatures, LSH band keys and exact hashes of texts.

A signature is bit-equal to `datasketch.MinHash(num_perm, seed, hashfunc=shingle_hash)` (scheme `affine32`)
of the text's shingles, so a row loads into datasketch and answers queries in a `MinHashLSH`. Broder,
"On the resemblance and containment of documents" (1997): the share of equal entries estimates Jaccard;
bands of rows find pairs above a threshold (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4).

Price: about 220 MB of Korean text per second and core for 126 permutations (with AVX2 instead of AVX-512:
160); 4 bytes per permutation and 8 bytes per band and document.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from yunmin_assets.dedup.checks import check_texts
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.kernels import LANES, announce_first_use, fold_band_keys, sign_texts
from yunmin_assets.dedup.minhash import minhash_permutations
from yunmin_assets.dedup.normalize import normalization_table
from yunmin_assets.dedup.text_blocks import Statuses, TextBlock, run_blocks
from yunmin_assets.progress import Log, silent


@dataclass(frozen=True)
class Signatures:
    """What deduplication remembers of n texts, in their order.

    Attributes:
        minhash: uint32[n, num_perm]. All 2³² − 1 for an empty text.
        shingles: int32[n], positions of an n-gram in the normalised text, repeats included: its characters
            or words − ngram + 1, 1 if there are fewer than ngram, 0 if there are none.
        characters: int32[n], characters (code points) of the text before normalisation.
        text_hash: uint64[n, 2], MurmurHash3 x64 128 of the normalised text. Equal: an exact duplicate.
        band_keys: uint64[bands, n]. Two documents with one equal key are a candidate pair.
    """

    minhash: npt.NDArray[np.uint32]
    shingles: npt.NDArray[np.int32]
    characters: npt.NDArray[np.int32]
    text_hash: npt.NDArray[np.uint64]
    band_keys: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.minhash)

    @classmethod
    def concatenate(cls, parts: Sequence["Signatures"]) -> "Signatures":
        """The signatures of several sets of texts, made with one config, one after the other."""
        return cls(
            minhash=np.concatenate([part.minhash for part in parts]),
            shingles=np.concatenate([part.shingles for part in parts]),
            characters=np.concatenate([part.characters for part in parts]),
            text_hash=np.concatenate([part.text_hash for part in parts]),
            band_keys=np.concatenate([part.band_keys for part in parts], axis=1),
        )


def compute_signatures(
    texts: pa.Array | pa.ChunkedArray, config: DedupConfig, *, log: Log = silent
) -> Signatures:
    """Sign every text; chunk by chunk, on all cores.

    Args:
        texts: string or large_string, no nulls; slices and any number of chunks are fine.

    Raises:
        TypeError: `texts` has another type.
        ValueError: a text is null or not valid UTF-8.
    """
    chunked = check_texts(texts)
    announce_first_use(sign_texts, log)
    count = len(chunked)
    result = Signatures(
        minhash=np.empty((count, config.num_perm), np.uint32),
        shingles=np.empty(count, np.int32),
        characters=np.empty(count, np.int32),
        text_hash=np.empty((count, 2), np.uint64),
        band_keys=np.empty((config.bands, count), np.uint64),
    )
    table = normalization_table(config.punctuation)
    permutations = _padded_permutations(config)
    by_words = config.ngram_unit == "word"

    def sign(block: TextBlock, accept_any_form: bool) -> Statuses:
        return sign_texts(
            block.data, block.offsets, block.rows, block.positions, table, config.ngram, by_words,
            permutations, accept_any_form, result.minhash, result.shingles, result.characters, result.text_hash,
        )  # fmt: skip

    run_blocks(chunked, np.arange(count), sign, log)
    fold_band_keys(result.minhash, config.rows, result.band_keys)
    return result


def band_keys(minhash: npt.NDArray[np.uint32], config: DedupConfig) -> npt.NDArray[np.uint64]:
    """The LSH keys of signatures: uint32[n, num_perm] → uint64[bands, n]."""
    keys = np.empty((config.bands, len(minhash)), np.uint64)
    fold_band_keys(minhash, config.rows, keys)
    return keys


def _padded_permutations(config: DedupConfig) -> npt.NDArray[np.uint32]:
    width = -(-config.num_perm // LANES) * LANES
    padded = np.zeros((2, width), np.uint32)
    padded[:, : config.num_perm] = minhash_permutations(config.num_perm, config.seed)
    return padded
