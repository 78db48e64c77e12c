"""Two halves of the documents, told apart by a hash of the id: nobody is scored by a model that saw it."""

import hashlib
from typing import Literal

Half = Literal["a", "b"]
SCORED_BY: dict[Half, Half] = {"a": "b", "b": "a"}
HASH_PURPOSE = b"reference-half"  # keeps the halves independent of every other hash of the id


def half_of(document_id: str) -> Half:
    """The half of the corpus a document belongs to, by a hash of its id; stable across runs and machines."""
    digest = hashlib.blake2b(document_id.encode(), key=HASH_PURPOSE, digest_size=1).digest()
    return "a" if digest[0] % 2 == 0 else "b"


def is_in_half(half: Half, document_id: str) -> bool:
    """Whether a document belongs to a half."""
    return half_of(document_id) == half
