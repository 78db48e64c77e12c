"""Look after the lake from a shell.

    python -m resources.lake_cli list               current snapshots with rows and bytes
    python -m resources.lake_cli verify             read every current file again and compare hashes
    python -m resources.lake_cli garbage            what publishers that died left behind, and forgotten checkpoints
    python -m resources.lake_cli collect [--keep N] remove garbage; with --keep also all but N older snapshots
    python -m resources.lake_cli versions ASSET     whole snapshots, newest first; * is the current one
    python -m resources.lake_cli rollback ASSET     make the one before the current one current, or that of --to

The lake is that of the configuration (`YUNMIN_CONFIG`, `YUNMIN_LAKE`) unless --lake names another.
"""

import argparse
import sys
from collections.abc import Iterator

from resources.lake import DAY, Lake
from resources.settings import Settings
from resources.snapshot import LakeError, Snapshot

COMMANDS = ("list", "verify", "garbage", "collect", "versions", "rollback")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 1 when `verify` finds something."""
    options = _parse(arguments)
    pipeline = Settings.from_environment().pipeline
    lake = Lake(uri=options.lake or pipeline.lake, endpoint_url=pipeline.endpoint_url)
    if options.command == "list":
        for snapshot in current_snapshots(lake):
            print(_line(snapshot))
    elif options.command == "verify":
        problems = find_problems(lake)
        print("\n".join(problems) or "every file is as it was published")
        return 1 if problems else 0
    elif options.command == "garbage":
        print("\n".join(str(path) for path in lake.garbage(older_than=options.older_than)) or "no garbage")
    elif options.command == "versions":
        current = lake.current(options.asset, options.domain).manifest.version
        for version in reversed(lake.versions(options.asset, options.domain)):
            snapshot = lake.open(options.asset, options.domain, version)
            print("*" if version == current else " ", _line(snapshot))
    elif options.command == "rollback":
        version = options.to or version_before_current(lake, options.asset, options.domain)
        lake.roll_back(options.asset, options.domain, version)
        print(_line(lake.current(options.asset, options.domain)))
    else:
        removed = lake.collect(older_than=options.older_than, keep=options.keep)
        print("\n".join(f"removed {path}" for path in removed) or "nothing to remove")
    return 0


def current_snapshots(lake: Lake) -> Iterator[Snapshot]:
    """Every current snapshot, by asset and domain."""
    for asset in lake.assets():
        for domain in [None, *lake.domains(asset)]:
            if snapshot := lake.find(asset, domain):
                yield snapshot


def find_problems(lake: Lake) -> list[str]:
    """A line for every current file that is not as it was published, and every pointer that leads nowhere."""
    problems = []
    for asset in lake.assets():
        for domain in [None, *lake.domains(asset)]:
            try:
                snapshot = lake.find(asset, domain)
                problems += snapshot.verify() if snapshot else []
            except (LakeError, ValueError) as error:
                problems.append(f"{asset}[{domain}]: {error}" if domain else f"{asset}: {error}")
    return problems


def version_before_current(lake: Lake, asset: str, domain: str | None) -> str:
    """The newest whole snapshot that is older than the current one.

    Raises:
        LakeError: there is none.
    """
    current = lake.current(asset, domain).manifest.version
    older = [version for version in lake.versions(asset, domain) if version < current]
    if not older:
        raise LakeError(f"{asset} has no snapshot before {current}: see `versions {asset}`")
    return older[-1]


def _line(snapshot: Snapshot) -> str:
    manifest = snapshot.manifest
    name = f"{manifest.asset}[{manifest.domain}]" if manifest.domain else manifest.asset
    rows = sum(file.rows or 0 for file in manifest.files)
    return f"{name:<44} {manifest.created}  {rows:>12,} rows  {snapshot.bytes:>14,} bytes  {manifest.version}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Look after the lake.")
    lake = argparse.ArgumentParser(add_help=False)
    lake.add_argument("--lake", help="folder or s3:// prefix (default: that of the configuration)")
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, parents=[lake]) for name in COMMANDS}
    for name in ("garbage", "collect"):
        parsers[name].add_argument(
            "--older-than", type=float, default=DAY, help="seconds of rest before a folder counts as garbage"
        )
    parsers["collect"].add_argument(
        "--keep", type=int, help="older snapshots to keep of each asset (default: all)"
    )
    for name in ("versions", "rollback"):
        parsers[name].add_argument("asset")
        parsers[name].add_argument("--domain", help="of a partitioned asset")
    parsers["rollback"].add_argument(
        "--to", metavar="VERSION", help="default: the one before the current one"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
