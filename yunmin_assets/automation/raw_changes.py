"""Which domains have new content, told from a listing of the raw root and from what was seen before.

One look lists at most `MAX_OBJECTS_PER_LOOK` objects, for `MAX_SECONDS_PER_LOOK` at most, and the next one goes on
behind the last of them: any number of objects is gone through in looks of a few seconds. No object is read. A
domain's listing is folded into one digest while it passes by, so what is remembered between two looks grows with
the number of domains and never with that of objects.

A domain counts as changed when the digest of its whole listing differs from that of its last request and has been
seen unchanged for the settle time: until then its writer, or the rest of the delivery, may not have finished. The
times in the store are not asked, since S3 gives a large object the time at which its upload began, and a file that
is moved keeps the time at which it was written.

Price: a change is reported by the second pass that sees it, never by the first. A domain that changes more often than
the settle time is never reported.
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


class Pass(BaseModel):
    """One walk over the whole raw root, which several looks may share."""

    after: str = ""
    """The last name that was listed."""
    domain: OpenDomain | None = None
    found: list[str] = Field(default_factory=list)
    """Domains whose objects were all listed."""


class Waiting(BaseModel):
    """A changed domain that is not known to be at rest."""

    digest: str
    since: float
    """When this listing was seen first, in seconds since the epoch."""


class Seen(BaseModel):
    """What is remembered between two looks."""

    number: int = 0
    """Of the last look; the first one, which reports nothing, has the time as its number: numbers never come again."""
    digests: dict[str, str] = Field(default_factory=dict)
    """Listing of each domain when it was last reported as changed."""
    waiting: dict[str, Waiting] = Field(default_factory=dict)
    """Domains that will be reported once they are at rest."""
    ingested_only: list[str] = Field(default_factory=list)
    """Domains reported before the models existed: the rest of their chain is still to be requested."""
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
    """Domains that changed and have not been at rest for the settle time."""
    gone: list[str] = field(default_factory=list)
    """Domains of which no object is left."""
    refused: dict[str, str] = field(default_factory=dict)
    """Name that cannot be a domain → why."""
    objects: int = 0
    """Listed by this look."""
    is_complete: bool = False
    """Whether this look reached the end of the raw root."""


def find_changes(root: UPath, seen: Seen, *, now: float, settle_seconds: float) -> Changes:
    """Go on with the listing of the raw root and compare what passes by with what was seen before.

    Args:
        root: the raw root.
        seen: the memory of the look before; it is not changed.
        now: seconds since the epoch.
        settle_seconds: how long a listing must have been seen unchanged; more than 0.

    Raises:
        RawObjectError: `root` does not exist.
    """
    look = _Look(seen, now, settle_seconds)
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

    def __init__(self, seen: Seen, now: float, settle_seconds: float) -> None:
        remembered = seen.model_copy(deep=True)
        remembered.number = seen.number + 1 if seen.number else int(now)
        self.changes = Changes(seen=remembered)
        self.listing = remembered.listing
        self._digests, self._waiting = remembered.digests, remembered.waiting
        self._now, self._settle_seconds = now, settle_seconds

    def take(self, item: ListedObject) -> bool:
        """Count an object in; False when the look is full, and the object belongs to the next one."""
        domain = self._domain_of(item)
        if domain is not None:
            if self.listing.domain is None or self.listing.domain.name != domain:
                self._close()
                if len(self.changes.changed) >= MAX_CHANGED_PER_LOOK:
                    return False
                self.listing.domain = OpenDomain(name=domain)
            self.listing.domain.digest = extended(self.listing.domain.digest, item)
        self.listing.after = item.name
        self.changes.objects += 1
        return True

    def end(self) -> None:
        """The raw root has no more objects: forget domains that did not come, and begin anew with the next look."""
        self._close()
        self.changes.gone = sorted(self._known().difference(self.listing.found))
        for domain in self.changes.gone:
            self._digests.pop(domain, None)
            self._waiting.pop(domain, None)
        remembered = self.changes.seen
        remembered.ingested_only = [name for name in remembered.ingested_only if name in self._digests]
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

    def _known(self) -> set[str]:
        return {*self._digests, *self._waiting}

    def _close(self) -> None:
        domain, self.listing.domain = self.listing.domain, None
        if domain is None:
            return
        known = self._known()
        if domain.name not in known and len(known) >= MAX_DOMAINS:
            reason = f"{domain.name} is one domain too many: {MAX_DOMAINS:,} are watched, use folders"
            self.changes.refused[domain.name] = reason
            return
        self.listing.found.append(domain.name)
        if self._digests.get(domain.name) == domain.digest:
            self._waiting.pop(domain.name, None)
            self.changes.settled.append(domain.name)
        elif self._is_at_rest(domain):
            del self._waiting[domain.name]
            self.changes.settled.append(domain.name)
            self.changes.changed[domain.name] = self._digests[domain.name] = domain.digest
        else:
            self.changes.unsettled.append(domain.name)

    def _is_at_rest(self, domain: OpenDomain) -> bool:
        """Whether this listing was seen before, long enough ago; what is seen first begins to wait."""
        waiting = self._waiting.get(domain.name)
        if waiting is None or waiting.digest != domain.digest:
            self._waiting[domain.name] = Waiting(digest=domain.digest, since=self._now)
            return False
        return self._now - waiting.since >= self._settle_seconds
