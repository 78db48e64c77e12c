"""Decides over the domains below a folder; the test kills it: `python -m tests.dedup.killed_clusters FROM TO`."""

import sys
from pathlib import Path

from yunmin_assets.dedup import DedupConfig
from yunmin_assets.dedup.clusters import decide_over_domains


def main(source: Path, target: Path) -> None:
    """Go on where the last attempt was killed."""
    clean = {folder.name: folder for folder in (source / "clean").iterdir()}
    signed = {folder.name: folder for folder in (source / "signatures").iterdir()}
    decide_over_domains(
        clean, signed, target / "out", DedupConfig(memory_budget_mb=1), workspace=target / "work"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
