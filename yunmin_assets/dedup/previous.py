"""What an earlier run decided, so that a new delivery costs what it touches.

A component (see `components`) depends on its members alone: on their ids, texts and what ranks them. One
with the same members as before keeps its decisions. A document is *fresh* if it is new or changed, or if
its old component lost or changed a member; only components with a fresh document are decided again, and
the result is the one of a full run.

    components/<domain>.parquet   a row per document, in order: id_hash uint64; content uint64, a hash of
                                  the text hash and the rank; component uint32, equal for the members of
                                  one; repeat bool, see `components.Components`

Price: reading 21 bytes per document of the earlier run; of a changed domain also sorting them.
"""

# Compiled with f817ef44f718

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from yunmin_assets.compiling import kernel
from yunmin_assets.dedup.batches import Domain
from yunmin_assets.dedup.components import Components
from yunmin_assets.dedup.config import DedupConfig
from yunmin_assets.dedup.kernels import mix64
from yunmin_assets.dedup.key_files import naming
from yunmin_assets.dedup.signature_files import read_part, signature_parts, text_hashes_of

# mypy: allow-untyped-defs
# numba infers the types of the kernels; the docstrings state them.

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

FOLDER = "components"
OPTIONS_KEY = b"yunmin.dedup.decisions"
ABSENT = -1
NO_PREVIOUS = "decide without the earlier run"
SCHEMA = pa.schema(
    [
        pa.field("id_hash", pa.uint64(), nullable=False),
        pa.field("content", pa.uint64(), nullable=False),
        pa.field("component", pa.uint32(), nullable=False),
        pa.field("repeat", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Previous:
    """Where an earlier run starts this one off.

    Attributes:
        components: what is connected already, over the documents of this run.
        new_rows: by domain of the earlier run, int64[its documents], the number that each one has now, or
            `ABSENT` if it is gone or has to be decided again.
    """

    components: Components
    new_rows: dict[str, Rows]


def write_components(
    folder: Path, domains: Sequence[Domain], components: Components, config: DedupConfig
) -> None:
    """Write the files above, for the run after this one."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({OPTIONS_KEY: _options(config)})
    for domain in domains:
        id_hashes, contents = _identity(domain)
        rows = slice(domain.first, domain.first + domain.count)
        columns = [id_hashes, contents, components.roots[rows], components.repeats[rows]]
        path = folder / FOLDER / f"{domain.name}.parquet"
        pq.write_table(pa.table(columns, schema=schema), path, write_page_checksum=True)


def load_previous(folder: Path | None, domains: Sequence[Domain], config: DedupConfig) -> Previous | None:
    """Match an earlier run with the documents of today.

    Args:
        folder: what the earlier run wrote, or None.
        domains: of today.
        config: an earlier run with other options is of no use.

    Returns:
        None if there is nothing to start from.

    Raises:
        ValueError: a file of the earlier run is damaged.
    """
    files = sorted((folder / FOLDER).glob("*.parquet")) if folder is not None else []
    if not files or any(_stored_options(file) != _options(config) for file in files):
        return None
    now = {domain.name: domain for domain in domains}
    tables = {file.stem: _read(file) for file in files}
    broken = np.zeros(sum(table.num_rows for table in tables.values()), np.bool_)
    places = {}
    for name, table in tables.items():
        places[name] = _places_today(table, now.get(name))
        broken[table["component"].to_numpy()[places[name] == ABSENT]] = True
    components = Components.unconnected(sum(domain.count for domain in domains))
    new_rows = {
        name: _renumber(places[name], broken[table["component"].to_numpy()], now.get(name))
        for name, table in tables.items()
    }
    _connect_as_before(components, tables, new_rows, broken.size)
    return Previous(components, new_rows)


def _stored_options(path: Path) -> bytes | None:
    with naming(path, NO_PREVIOUS):
        return (pq.read_schema(path).metadata or {}).get(OPTIONS_KEY)


def _read(path: Path) -> pa.Table:
    with naming(path, NO_PREVIOUS):
        return pq.read_table(path, page_checksum_verification=True)


def _places_today(old: pa.Table, domain: Domain | None) -> Rows:
    """Where each old document is in the domain of today, unchanged; else `ABSENT`."""
    if domain is None or not domain.count:
        return np.full(old.num_rows, ABSENT)
    id_hashes, contents = _identity(domain)
    old_ids = old["id_hash"].to_numpy()
    if np.array_equal(old_ids, id_hashes):
        places = np.arange(old.num_rows)
    else:
        order = np.argsort(id_hashes)
        found = np.searchsorted(id_hashes, old_ids, sorter=order)
        places = order[np.minimum(found, order.size - 1)]
    is_same = (id_hashes[places] == old_ids) & (contents[places] == old["content"].to_numpy())
    return np.where(is_same, places, ABSENT)


def _renumber(places: Rows, is_broken: npt.NDArray[np.bool_], domain: Domain | None) -> Rows:
    if domain is None:
        return places
    return np.where((places == ABSENT) | is_broken, ABSENT, places + domain.first)


def _connect_as_before(
    components: Components, tables: Mapping[str, pa.Table], new_rows: Mapping[str, Rows], old_count: int
) -> None:
    """Connect what was connected before; the smallest of today's numbers is the root."""
    root_of = np.full(old_count, components.roots.size, np.int64)
    for name, table in tables.items():
        is_there = new_rows[name] != ABSENT
        np.minimum.at(root_of, table["component"].to_numpy()[is_there], new_rows[name][is_there])
    for name, table in tables.items():
        is_there = new_rows[name] != ABSENT
        rows = new_rows[name][is_there]
        components.roots[rows] = root_of[table["component"].to_numpy()[is_there]]
        components.repeats[rows] = table["repeat"].to_numpy()[is_there]
        components.fresh[rows] = False


def _identity(domain: Domain) -> tuple[Hashes, Hashes]:
    """What tells whether a document is the same as before: uint64[n] of its id, and of text and rank."""
    columns = ["id_hash", "text_hash", "characters", "quality"]
    id_hashes, contents = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for part in signature_parts(domain.signatures):
        table = read_part(part, columns=columns)
        id_hashes.append(table["id_hash"].to_numpy())
        quality = pc.fill_null(table["quality"], np.nan).to_numpy().view(np.uint64)
        contents.append(_content(text_hashes_of(table), table["characters"].to_numpy(), quality))
    return np.concatenate(id_hashes), np.concatenate(contents)


@kernel
def _content(text_hashes, characters, quality):
    contents = np.empty(characters.size, np.uint64)
    for row in range(contents.size):
        rank = mix64(np.uint64(characters[row]) ^ mix64(quality[row]))
        contents[row] = mix64(text_hashes[row, 0] ^ mix64(text_hashes[row, 1] ^ rank))
    return contents


def _options(config: DedupConfig) -> bytes:
    return json.dumps(config.decision_options(), sort_keys=True).encode()
