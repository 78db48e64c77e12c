"""Train, validation and test by cluster, so that no near-duplicate crosses a split.

A document's place is decided by a hash of its cluster: the same on every machine, and unchanged when
other documents come or go.
"""

import hashlib

from pydantic import Field, model_validator

from yunmin_assets.config_model import ConfigModel

_HASH_RANGE = 2.0**64


class SplitConfig(ConfigModel):
    """Shares of a domain's documents that are held out."""

    validation: float = Field(default=0.05, ge=0, lt=1)
    test: float = Field(default=0.05, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> "SplitConfig":
        if self.validation + self.test >= 1:
            raise ValueError("validation and test shares together must stay below 1")
        return self


def split_of(cluster_id: str, config: SplitConfig) -> str:
    """The split of every document of a cluster: "train", "validation" or "test"."""
    digest = hashlib.blake2b(f"{config.seed}/{cluster_id}".encode(), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / _HASH_RANGE
    if position < config.test:
        return "test"
    return "validation" if position < config.test + config.validation else "train"
