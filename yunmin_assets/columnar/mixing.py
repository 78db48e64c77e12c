"""Which source each row of a mixture comes from, in closed form.

The rows are dealt in cycles of 1024. In each cycle every source has the same number of places, less than one
place from its exact share, and the places are permuted. So the mixture never strays from the rounded weights
by more than a cycle, and how many rows of a source lie before a position is known without walking there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from yunmin_assets.columnar.shuffling import MIXING_ORDER, permutation

CYCLE = 1024
SMALLEST_SHARE = 0.5 / CYCLE
"""Of a source: what is less rounds to no place at all."""
REMEMBERED_CYCLES = 256


def places_of_sources(weights: Mapping[str, float]) -> dict[str, int]:
    """Places of each source in a cycle: its share of 1024, rounded by largest remainders.

    Raises:
        ValueError: a weight is not a positive number, or so small that its source has no place.
    """
    if not weights:
        raise ValueError("a mixture needs at least one source")
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise ValueError(f"the weight of {name!r} is {weight}: weights are positive, or leave it out")
    names = sorted(weights)
    shares = np.array([weights[name] for name in names], np.float64)
    shares /= shares.max()  # before they are summed: the sum of large numbers may be infinite
    shares /= shares.sum()
    exact = shares * CYCLE
    places = np.floor(exact).astype(np.int64)
    largest_remainders = np.argsort(places - exact, kind="stable")
    places[largest_remainders[: CYCLE - places.sum()]] += 1
    for name, share, own in zip(names, shares.tolist(), places.tolist(), strict=True):
        if share < SMALLEST_SHARE or own == 0:
            raise ValueError(
                f"the weight of {name!r} is {share:.2g} of all, too little for one row in {CYCLE}: give it more, "
                "leave it out, or pack it together with another source"
            )
    return dict(zip(names, places.tolist(), strict=True))


@dataclass(frozen=True)
class MixingSchedule:
    """Deals positions 0, 1, 2, … to sources 0, 1, …"""

    places: tuple[int, ...]
    """[sources] places in a cycle."""
    seed: int

    def sources(self, start: int, end: int) -> NDArray[np.int64]:
        """Sources of the positions start … end - 1."""
        cycles = range(start // CYCLE, -(-end // CYCLE))
        if not cycles:
            return np.empty(0, np.int64)
        dealt = np.concatenate([_dealt(self, cycle) for cycle in cycles])
        return dealt[start - cycles.start * CYCLE : end - cycles.start * CYCLE]

    def rows_before(self, position: int, source: int) -> int:
        """How many rows of a source are delivered before a position."""
        cycle, rest = divmod(position, CYCLE)
        return cycle * self.places[source] + int(np.sum(_dealt(self, cycle)[:rest] == source))

    def positions(self, source: int, start: int, end: int) -> NDArray[np.int64]:
        """Positions of the rows start … end - 1 of a source."""
        places = self.places[source]
        cycles = range(start // places, -(-end // places))
        if not cycles:
            return np.empty(0, np.int64)
        found = np.concatenate(
            [cycle * CYCLE + np.flatnonzero(_dealt(self, cycle) == source) for cycle in cycles]
        )
        return found[start - cycles.start * places : end - cycles.start * places]


@lru_cache(maxsize=REMEMBERED_CYCLES)
def _dealt(schedule: MixingSchedule, cycle: int) -> NDArray[np.int64]:
    """int64 [CYCLE] sources of the places of a cycle."""
    order = permutation(CYCLE, schedule.seed, (MIXING_ORDER, cycle))
    return np.repeat(np.arange(len(schedule.places)), schedule.places)[order]
