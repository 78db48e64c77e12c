"""Which domains have new content, told from a folder listing and what was seen before.

Content decides, not time stamps: an object is read again only when its size or time stamp changed, and a
domain counts as changed only when some object's SHA-256 did. An object that was written a moment ago is
left for the next look, because its writer may not have finished.
"""

from dataclasses import dataclass, field

from pydantic import Field
from upath import UPath

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.corpus.raw import Listing, content_of, list_domains, relative_name
from yunmin_assets.files import sha256_of

SETTLE_SECONDS = 2.0


class SeenObject(ConfigModel):
    """An object as the sensor last saw it."""

    stamp: str
    """Size and modification time, or the ETag of a remote object."""
    sha256: str
    """SHA-256, or the ETag of a remote object."""


class Seen(ConfigModel):
    """What the sensor remembers between two looks."""

    objects: dict[str, SeenObject] = Field(default_factory=dict)
    """By name below the raw root."""
    contents: dict[str, str] = Field(default_factory=dict)
    """Content of each domain when it was last requested."""


@dataclass(frozen=True)
class Changes:
    """What one look at the raw folder found."""

    changed: dict[str, str] = field(default_factory=dict)
    """Domain → hash of its content."""
    unsettled: tuple[str, ...] = ()
    """Domains with an object that is still being written."""
    domains: int = 0
    seen: Seen = field(default_factory=Seen)


def find_changes(root: UPath, seen: Seen, *, now: float) -> Changes:
    """Compare the raw folder with what was seen before.

    Args:
        root: the raw folder.
        seen: the memory of the look before.
        now: seconds since the epoch.

    Raises:
        RawObjectError: `root` does not exist.
    """
    objects: dict[str, SeenObject] = {}
    contents, changed, unsettled = dict[str, str](), dict[str, str](), list[str]()
    domains = list_domains(root)
    for domain, listing in domains.items():
        if not _is_settled(listing, now):
            unsettled.append(domain)
            objects |= {name: item for name, item in seen.objects.items() if _belongs(name, domain)}
            contents |= {domain: seen.contents[domain]} if domain in seen.contents else {}
            continue
        current = _look(root, listing, seen)
        objects |= current
        contents[domain] = content_of([(name, item.sha256) for name, item in current.items()])
        if seen.contents.get(domain) != contents[domain]:
            changed[domain] = contents[domain]
    return Changes(changed, tuple(unsettled), len(domains), Seen(objects=objects, contents=contents))


def _look(root: UPath, listing: Listing, seen: Seen) -> dict[str, SeenObject]:
    found = {}
    for path in listing.objects:
        name, stamp = relative_name(root, path), _stamp(path)
        before = seen.objects.get(name)
        if before is not None and before.stamp == stamp:
            found[name] = before
        else:
            found[name] = SeenObject(stamp=stamp, sha256=_content(path))
    return found


def _content(path: UPath) -> str:
    """What tells contents apart: SHA-256 of a local file, the ETag of a remote object (which is not fetched)."""
    return str(path.fs.info(path.path).get("ETag") or sha256_of(path))


def _stamp(path: UPath) -> str:
    info = path.fs.info(path.path)
    return str(info.get("ETag") or f"{info['size']}:{info.get('mtime')}")


def _is_settled(listing: Listing, now: float) -> bool:
    times = [path.fs.info(path.path).get("mtime") for path in listing.objects]  # remote objects appear whole
    return all(time is None or now - time >= SETTLE_SECONDS for time in times)


def _belongs(name: str, domain: str) -> bool:
    return name.startswith((f"{domain}/", f"{domain}."))
