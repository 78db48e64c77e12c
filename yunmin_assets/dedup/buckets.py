"""Buckets: the documents that share a band key, band by band.

Only buckets of two and more documents are kept, and only the documents in one of them, the *candidates*,
go on. One band is sorted at a time.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Buckets:
    """Who meets whom.

    Attributes:
        candidates: int64[c], ascending indices of the documents that share a band key with another one.
        bucket_of: int32[c, bands], the bucket of candidate i in each band, or −1 where it is alone.
        starts: int64[buckets + 1]; bucket b has starts[b + 1] − starts[b] documents.
    """

    candidates: npt.NDArray[np.int64]
    bucket_of: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]


def find_buckets(keys: npt.NDArray[np.uint64]) -> Buckets:
    """Group documents by their band keys: uint64[bands, n]."""
    bands, count = keys.shape
    bucket_of = np.full((count, bands), -1, np.int32)
    all_sizes = [np.zeros(1, np.int64)]
    buckets = 0
    for band in range(bands):
        documents, lengths = _shared_keys(keys[band])
        bucket_of[documents, band] = np.repeat(np.arange(buckets, buckets + lengths.size), lengths)
        buckets += lengths.size
        all_sizes.append(lengths)
    candidates = np.flatnonzero((bucket_of >= 0).any(axis=1))
    return Buckets(candidates, bucket_of[candidates], np.cumsum(np.concatenate(all_sizes)))


def _shared_keys(keys: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The documents whose key occurs more than once, bucket after bucket, and the buckets' sizes."""
    order = np.argsort(keys)
    ordered = keys[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if keys.size else order
    lengths = np.diff(first, append=keys.size)
    shared = lengths > 1
    return order[np.repeat(shared, lengths)], lengths[shared]
