"""What a search for domain weights says of itself, whatever its method."""

from dataclasses import dataclass

from yunmin_assets.dem.difference import Weight

SEARCH = "search"
"""Kind of the units of a search in its journal."""


@dataclass(frozen=True)
class SearchStep:
    """One step of a gradient search, or one trial of another."""

    loss: float
    """Mean over domains of the loss per token in nats, on this step's rows."""
    weights: dict[str, Weight]
    """The weights that loss was measured with."""
    rows: int
    """Over all domains, on which it was measured."""


@dataclass(frozen=True)
class Found:
    """What a search found and how."""

    weights: dict[str, Weight]
    curve: list[SearchStep]
    tokens: int
    """That went through the model."""
