"""Options of the dedup stage."""

from typing import Any, Literal

from pydantic import Field

from yunmin_assets.config_model import ConfigModel

SIGNATURE_OPTIONS = {"ngram", "ngram_unit", "bands", "rows", "seed", "punctuation", "quality"}

SIGNATURE_VERSION = 2
"""Raise it when the same options give other signatures: stored ones are then refused, and decisions made anew."""


class DedupConfig(ConfigModel):
    """What counts as a near-duplicate and who survives.

    `bands` × `rows` permutations are drawn; 21 × 6 finds a pair of Jaccard 0.8 with probability
    1 − (1 − 0.8⁶)²¹ = 0.9983, and exact verification takes the false candidates out again.
    """

    threshold: float = Field(default=0.8, gt=0, le=1)
    ngram: int = Field(default=13, ge=1)
    """Units in a shingle."""
    ngram_unit: Literal["character", "word"] = "character"
    """What `ngram` counts: characters, or words, the runs without a space in the normalised text."""
    bands: int = Field(default=21, ge=1)
    rows: int = Field(default=6, ge=1)
    seed: int = Field(default=1, ge=0, lt=2**32)
    verify: Literal["exact", "none"] = "exact"
    survivors: Literal["anchored", "linked"] = "anchored"
    punctuation: Literal["ascii", "unicode"] = "ascii"
    """Which punctuation the comparison ignores: `string.punctuation`, or every Unicode P and S character."""
    domain_priority: tuple[str, ...] = ()
    """Domains whose documents survive before all others', best first."""
    quality: str | None = None
    """Key of a number in a document's `meta`; within a domain priority the higher one survives."""
    memory_budget_mb: int = Field(default=2048, ge=1)
    """Working memory of a step in MB; what does not fit is sorted in key ranges and decided in batches."""

    @classmethod
    def slimpajama(cls) -> "DedupConfig":
        """What SlimPajama did: 9 bands of 13 rows, candidates never verified, connected components."""
        return cls(bands=9, rows=13, verify="none", survivors="linked")

    def signature_options(self) -> dict[str, Any]:
        """What signatures depend on, as JSON values: options, and the version of the code."""
        options = self.model_dump(mode="json", include=SIGNATURE_OPTIONS)
        return {**options, "signature_version": SIGNATURE_VERSION}

    def decision_options(self) -> dict[str, Any]:
        """What decisions depend on, as JSON values: all options but how much memory there is, and the version."""
        options = self.model_dump(mode="json", exclude={"memory_budget_mb"})
        return {**options, "signature_version": SIGNATURE_VERSION}

    @property
    def memory_budget_bytes(self) -> int:
        """The memory budget in bytes."""
        return self.memory_budget_mb * 1_000_000

    @property
    def num_perm(self) -> int:
        """Permutations in one signature."""
        return self.bands * self.rows

    def collision_probability(self, jaccard: float) -> float:
        """The probability that two documents of this Jaccard share a band and so are compared at all.

        Example:
            >>> round(DedupConfig().collision_probability(0.8), 4)
            0.9983
            >>> round(DedupConfig.slimpajama().collision_probability(0.8), 2)
            0.4
        """
        return 1 - (1 - jaccard**self.rows) ** self.bands
