"""Reading upstream snapshots: over all domains, and only when they belong together.

A blocking check guards one run. An asset over all domains reads what other runs published, so it gates
here, in code: on snapshots that exist and were made from one another.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dagster import AssetExecutionContext

from resources.lake import Lake, check_domain
from resources.publishing import Check
from resources.snapshot import LakeError, Snapshot
from yunmin_assets.partitions import domain_partitions

Requirement = Callable[[str], tuple[str, str | None]]

EVERY_DOMAIN_PRESENT = {"every_domain_present": "Every registered domain took part."}


@dataclass(frozen=True)
class Upstream:
    """The current snapshots of one asset over all registered domains."""

    asset: str
    snapshots: Mapping[str, Snapshot]
    """By domain, sorted by name."""
    missing: tuple[str, ...]
    """Registered domains for which the asset has not been materialized."""

    def check(self) -> Check:
        """The non-blocking check `every_domain_present`."""
        found = "every registered domain took part"
        if self.missing:
            found = f"without {', '.join(self.missing)}: {self.asset} is absent or out of date there"
        return Check("every_domain_present", not self.missing, found, blocking=False)

    def hashes(self, file: str | None = None) -> dict[str, str]:
        """Input name → content hash, of the whole snapshots or of one file in each."""
        return {
            f"{self.asset}[{domain}]": snapshot.file(file).sha256 if file else snapshot.content_hash
            for domain, snapshot in self.snapshots.items()
        }

    def bytes(self, file: str | None = None) -> int:
        """Bytes of the whole snapshots or of one file in each."""
        return sum(item.file(file).bytes if file else item.bytes for item in self.snapshots.values())


def over_all_domains(
    context: AssetExecutionContext, lake: Lake, asset: str, *, made_from: Requirement | None = None
) -> Upstream:
    """The current snapshots of `asset` for every registered domain that has a usable one.

    A registered domain without one is left out and reported: a broken delivery must not stop the others.

    Args:
        asset: name of a partitioned asset.
        made_from: domain → the input a usable snapshot was made from, as (input name, content hash).

    Raises:
        LakeError: no registered domain has a usable snapshot.
    """
    registered = sorted(context.instance.get_dynamic_partitions(str(domain_partitions.name)))
    found = {domain: _usable(lake, asset, domain, made_from) for domain in registered}
    snapshots = {domain: snapshot for domain, snapshot in found.items() if snapshot is not None}
    missing = tuple(domain for domain, snapshot in found.items() if snapshot is None)
    if not snapshots:
        raise LakeError(f"{asset} is not materialized in any of the {len(registered)} registered domains")
    if missing:
        context.log.warning(f"{asset} is absent or out of date in {', '.join(missing)}: going on without")
    return Upstream(asset, snapshots, missing)


def _usable(lake: Lake, asset: str, domain: str, made_from: Requirement | None) -> Snapshot | None:
    try:
        check_domain(domain)  # a partition may be added by hand under any name
    except ValueError:
        return None
    snapshot = lake.find(asset, domain)
    if snapshot is None or made_from is None:
        return snapshot
    input_name, content_hash = made_from(domain)
    return snapshot if snapshot.manifest.inputs.get(input_name) == content_hash else None


def require_made_from(snapshot: Snapshot, input_name: str, content_hash: str) -> None:
    """Refuse a snapshot that was made from another version of an input than the current one.

    Raises:
        LakeError: naming the asset to materialize again.
    """
    if snapshot.manifest.inputs.get(input_name) != content_hash:
        raise made_from_older(snapshot, input_name)


def made_from_older(snapshot: Snapshot, input_name: str) -> LakeError:
    """The refusal of a snapshot that was made from another version of an input."""
    manifest = snapshot.manifest
    name = f"{manifest.asset}[{manifest.domain}]" if manifest.domain else manifest.asset
    return LakeError(f"{name} was made from an older {input_name}: materialize {name} again")


def find_made_from(lake: Lake, asset: str, hashes: Mapping[str, str]) -> Snapshot | None:
    """The current snapshot of an asset over all domains, if it was made from exactly these snapshots of another asset.

    For what others can do without: a control, a measurement.

    Args:
        hashes: input name → content hash, as `Upstream.hashes` gives them.
    """
    snapshot = lake.find(asset)
    if snapshot is None:
        return None
    assets = tuple({f"{name.partition('[')[0]}[" for name in hashes})
    used = {name: value for name, value in snapshot.manifest.inputs.items() if name.startswith(assets)}
    return snapshot if used == dict(hashes) else None
