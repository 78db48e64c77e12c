"""Near-duplicate removal: MinHash LSH whose every removal is verified by exact Jaccard.

Example:
    >>> import pyarrow as pa
    >>> from yunmin_assets.dedup import DedupConfig, deduplicate
    >>> documents = pa.table({"id": ["a", "b"], "text": ["Same text.", "same  TEXT"]})
    >>> deduplicate(documents, DedupConfig()).select(["id", "kept", "survivor_id"]).to_pylist()
    [{'id': 'a', 'kept': True, 'survivor_id': 'a'}, {'id': 'b', 'kept': False, 'survivor_id': 'a'}]

Who wants to go deeper:

- what is compared: `normalize`, `shingles`; compiled: `kernels` over `text_blocks`;
- signatures: `signatures`, `minhash`; on disk: `signing`, `signature_files`, `key_files`;
- decisions in memory: `decisions`, over `buckets`, `shingle_sets` and `survivors`;
- decisions over a lake: `clusters`, over `components`, `batches`, `previous` and `decision_files`;
- what comes of them: `removal`, `splits`, `boilerplate`; for people: `summary`, `side_by_side`; `recall`.
"""

from typing import TYPE_CHECKING

from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from yunmin_assets.dedup.decisions import DECISION_SCHEMA, decide, deduplicate
    from yunmin_assets.dedup.minhash import minhash_permutations
    from yunmin_assets.dedup.normalize import normalize_text
    from yunmin_assets.dedup.recall import DedupScore, score_against_truth
    from yunmin_assets.dedup.shingles import shingle_hash, text_shingles
    from yunmin_assets.dedup.signature_files import read_band, read_signatures
    from yunmin_assets.dedup.signatures import Signatures, compute_signatures
    from yunmin_assets.dedup.signing import write_signatures

_MODULES = {
    "DECISION_SCHEMA": "decisions",
    "DedupScore": "recall",
    "Signatures": "signatures",
    "compute_signatures": "signatures",
    "decide": "decisions",
    "deduplicate": "decisions",
    "minhash_permutations": "minhash",
    "normalize_text": "normalize",
    "read_band": "signature_files",
    "read_signatures": "signature_files",
    "score_against_truth": "recall",
    "shingle_hash": "shingles",
    "text_shingles": "shingles",
    "write_signatures": "signing",
}

__all__ = [
    "DECISION_SCHEMA",
    "DedupConfig",
    "DedupScore",
    "Signatures",
    "compute_signatures",
    "decide",
    "deduplicate",
    "minhash_permutations",
    "normalize_text",
    "read_band",
    "read_signatures",
    "score_against_truth",
    "shingle_hash",
    "text_shingles",
    "write_signatures",
]

__getattr__ = lazy_exports(__name__, _MODULES)
