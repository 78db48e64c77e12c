"""How JSONL is read where nothing better is there: the baselines that Parquet is measured against."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SHUFFLE_BUFFER_ROWS = 10_000


def values_of_lines(path: Path, key: str, loads: Callable[[bytes], Any]) -> Iterator[Any]:
    """Yield one value of each line's object, as `json.loads` or `orjson.loads` gives it."""
    with path.open("rb") as file:
        for line in file:
            yield loads(line)[key]


def through_shuffle_buffer(rows: Iterable[Any], seed: int = 0) -> Iterator[Any]:
    """Fill a buffer of 10,000 rows, then give out a random one for each that comes in, as streaming loaders do."""
    chance, iterator = random.Random(seed), iter(rows)
    buffer = [*itertools.islice(iterator, SHUFFLE_BUFFER_ROWS)]
    for row in iterator:
        place = chance.randrange(len(buffer))
        yield buffer[place]
        buffer[place] = row
    chance.shuffle(buffer)
    yield from buffer
