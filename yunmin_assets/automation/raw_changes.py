"""Which domains have new content, told from a listing of the raw root and from what was seen before.

One look lists at most `MAX_OBJECTS_PER_LOOK` objects, for `MAX_SECONDS_PER_LOOK` at most, and the next one goes on
behind the last of them: any number of objects is gone through in looks of a few seconds. No object is read. A
domain's listing is folded into one digest while it passes by, so what is remembered between two looks grows with
the number of domains and never with that of objects.

A domain counts as changed when the digest of its whole listing differs from that of its last request. A domain
with an object written less than `SETTLE_SECONDS` ago is left for a later look: its writer, or the rest of the
delivery, may not have finished. The clock of an S3 server may run ahead, so what was written "in the future" waits
no longer than that either.

Price: a domain listed over several looks that changes behind the listing is requested once more than needed.
"""

import time
from dataclasses import dataclass, field
from itertools import islice

from pydantic import BaseModel, Field
from upath import UPath

from resources.lake import check_domain
from yunmin_assets.corpus.listing import (
    NO_OBJECTS,
    ListedObject,
    domain_of,
    extended,
    is_readable,
    list_objects,
)

SETTLE_SECONDS = 10.0
MAX_OBJECTS_PER_LOOK = 50_000
MAX_SECONDS_PER_LOOK = 20.0  # Dagster gives a sensor 60
OBJECTS_BETWEEN_GLANCES = (
    1_000  # at the clock: what one request lists, so that even the slowest store gets on
)
MAX_CHANGED_PER_LOOK = 50
MAX_DOMAINS = 1_000


class OpenDomain(BaseModel):
    """A domain whose objects are still passing by."""

    name: str
    digest: str = NO_OBJECTS
    is_settled: bool = True


class Pass(BaseModel):
    """One walk over the whole raw root, which several looks may share."""

    after: str = ""
    """The last name that was listed."""
    domain: OpenDomain | None = None
    found: list[str] = Field(default_factory=list)
    """Domains whose objects were all listed."""


class Seen(BaseModel):
    """What is remembered between two looks."""

    number: int = 0
    """Of the last look; the first one has the time as its number, so that numbers never come again."""
    digests: dict[str, str] = Field(default_factory=dict)
    """Listing of each domain when it was last reported as changed."""
    listing: Pass = Field(default_factory=Pass)


@dataclass
class Changes:
    """What one look found."""

    seen: Seen
    """What the next look has to know."""
    changed: dict[str, str] = field(default_factory=dict)
    """Domain → digest of its listing."""
    settled: list[str] = field(default_factory=list)
    """Domains that were listed to their end and are at rest."""
    unsettled: list[str] = field(default_factory=list)
    """Domains with an object that was written a moment ago."""
    gone: list[str] = field(default_factory=list)
    """Domains of which no object is left."""
    refused: dict[str, str] = field(default_factory=dict)
    """Name that cannot be a domain → why."""
    objects: int = 0
    """Listed by this look."""
    is_complete: bool = False
    """Whether this look reached the end of the raw root."""


def find_changes(root: UPath, seen: Seen, *, now: float) -> Changes:
    """Go on with the listing of the raw root and compare what passes by with what was seen before.

    Args:
        root: the raw root.
        seen: the memory of the look before; it is not changed.
        now: seconds since the epoch.

    Raises:
        RawObjectError: `root` does not exist.
    """
    look = _Look(seen, now)
    deadline = time.monotonic() + MAX_SECONDS_PER_LOOK
    for item in islice(list_objects(root, after=look.listing.after), MAX_OBJECTS_PER_LOOK):
        if not look.take(item):
            break
        if look.changes.objects % OBJECTS_BETWEEN_GLANCES == 0 and time.monotonic() > deadline:
            break
    else:
        if look.changes.objects < MAX_OBJECTS_PER_LOOK:
            look.end()
    return look.changes


class _Look:
    """Takes objects in the order of their names and settles each domain when its last object has passed."""

    def __init__(self, seen: Seen, now: float) -> None:
        remembered = seen.model_copy(deep=True)
        remembered.number = seen.number + 1 if seen.number else int(now)
        self.changes = Changes(seen=remembered)
        self.listing = remembered.listing
        self._digests, self._now = remembered.digests, now

    def take(self, item: ListedObject) -> bool:
        """Count an object in; False when the look is full, and the object belongs to the next one."""
        domain = self._domain_of(item)
        if domain is not None:
            if self.listing.domain is None or self.listing.domain.name != domain:
                self._close()
                if len(self.changes.changed) >= MAX_CHANGED_PER_LOOK:
                    return False
                self.listing.domain = OpenDomain(name=domain)
            current = self.listing.domain
            current.digest = extended(current.digest, item)
            current.is_settled = current.is_settled and abs(self._now - item.modified) >= SETTLE_SECONDS
        self.listing.after = item.name
        self.changes.objects += 1
        return True

    def end(self) -> None:
        """The raw root has no more objects: forget domains that did not come, and begin anew with the next look."""
        self._close()
        self.changes.gone = sorted(set(self._digests).difference(self.listing.found))
        for domain in self.changes.gone:
            del self._digests[domain]
        self.changes.is_complete = True
        self.changes.seen.listing = Pass()

    def _domain_of(self, item: ListedObject) -> str | None:
        domain = domain_of(item.name)
        if domain is None or not is_readable(item.name) or domain in self.changes.refused:
            return None
        try:
            return check_domain(domain)
        except ValueError as error:
            self.changes.refused[domain] = str(error)
            return None

    def _close(self) -> None:
        domain, self.listing.domain = self.listing.domain, None
        if domain is None:
            return
        if len(self.listing.found) >= MAX_DOMAINS:
            reason = f"{domain.name} is one domain too many: {MAX_DOMAINS:,} are watched, use folders"
            self.changes.refused[domain.name] = reason
            return
        self.listing.found.append(domain.name)
        if not domain.is_settled:
            self.changes.unsettled.append(domain.name)
            return
        self.changes.settled.append(domain.name)
        if self._digests.get(domain.name) != domain.digest:
            self.changes.changed[domain.name] = self._digests[domain.name] = domain.digest
