"""Reading upstream snapshots: over all domains, and only when they belong together.

A blocking check guards one run. An asset over all domains reads what other runs published, so it gates
here, in code: on snapshots that exist and were made from one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dagster import AssetExecutionContext

from resources.lake import Lake, LakeError, Snapshot
from resources.publishing import Check
from yunmin_assets.partitions import domain_partitions

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
            found = f"without {', '.join(self.missing)}: {self.asset} is not materialized there"
        return Check("every_domain_present", not self.missing, found, blocking=False)

    def hashes(self, file: str | None = None) -> dict[str, str]:
        """Input name → content hash, of the whole snapshots or of one file in each."""
        return {
            f"{self.asset}[{domain}]": snapshot.file(file).sha256 if file else snapshot.content_hash
            for domain, snapshot in self.snapshots.items()
        }

    @property
    def bytes(self) -> int:
        """Bytes of all snapshots."""
        return sum(snapshot.bytes for snapshot in self.snapshots.values())


def over_all_domains(context: AssetExecutionContext, lake: Lake, asset: str) -> Upstream:
    """The current snapshots of `asset` for every registered domain that has one.

    A registered domain without a snapshot is left out and reported: one broken delivery must not stop the
    other domains.

    Raises:
        LakeError: no registered domain has a snapshot.
    """
    registered = sorted(context.instance.get_dynamic_partitions(str(domain_partitions.name)))
    found = {domain: lake.find(asset, domain) for domain in registered}
    snapshots = {domain: snapshot for domain, snapshot in found.items() if snapshot is not None}
    missing = tuple(domain for domain, snapshot in found.items() if snapshot is None)
    if not snapshots:
        raise LakeError(f"{asset} is not materialized in any of the {len(registered)} registered domains")
    if missing:
        context.log.warning(f"{asset} is not materialized in {', '.join(missing)}: going on without")
    return Upstream(asset, snapshots, missing)


def require_made_from(snapshot: Snapshot, input_name: str, content_hash: str) -> None:
    """Refuse a snapshot that was made from another version of an input than the current one.

    Raises:
        LakeError: naming the asset to materialize again.
    """
    manifest = snapshot.manifest
    if manifest.inputs.get(input_name) != content_hash:
        name = f"{manifest.asset}[{manifest.domain}]" if manifest.domain else manifest.asset
        raise LakeError(f"{name} was made from an older {input_name}: materialize {name} again")
