"""Options of the dedup stage."""

from typing import Literal

from pydantic import Field

from yunmin_assets.config_model import ConfigModel


class DedupConfig(ConfigModel):
    """What counts as a near-duplicate and who survives.

    `bands` × `rows` permutations are drawn; 21 × 6 finds a pair of Jaccard 0.8 with probability
    1 − (1 − 0.8⁶)²¹ = 0.9985, and exact verification takes the false candidates out again.
    """

    threshold: float = Field(default=0.8, gt=0, le=1)
    ngram: int = Field(default=13, ge=1)
    bands: int = Field(default=21, ge=1)
    rows: int = Field(default=6, ge=1)
    seed: int = Field(default=1, ge=0)
    verify: Literal["exact", "none"] = "exact"
    survivors: Literal["anchored", "linked"] = "anchored"
    punctuation: Literal["ascii", "unicode"] = "ascii"
    """Which punctuation the comparison ignores: `string.punctuation`, or every Unicode P and S character."""
    domain_priority: tuple[str, ...] = ()
    """Domains whose documents survive before all others', best first."""

    @property
    def num_perm(self) -> int:
        """Permutations in one signature."""
        return self.bands * self.rows
