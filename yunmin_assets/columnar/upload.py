"""Publish a packed data set under a remote prefix, so that a reader sees a whole data set or none.

    unfinished             a random number: whose upload this is
    shard-00000.parquet …  one after the other
    manifest.json          last; then `unfinished` goes

A prefix with a manifest is never written to. One with `unfinished` and no manifest is what a killed upload
left: the next packing takes it over and deletes what lies there. Object stores have no locks, so of two
packings at once the later one takes over, and the earlier one stops before its next file.

Price: one small request more per file. A file that is on its way at the takeover may still land on the later
one's; a loader then finds checksums that do not match.
"""

import uuid
from pathlib import Path

from upath import UPath

from yunmin_assets.columnar.manifest import MANIFEST_FILE

UNFINISHED_MARK = "unfinished"


class Upload:
    """The upload of one data set; give it every file with `deliver`, the manifest last, and then `finish`."""

    def __init__(self, out: UPath):
        """Claim a prefix and empty it of what a killed upload left.

        Raises:
            FileExistsError: there is something that no unfinished upload left.
        """
        self._out, self._files = out, out.fs
        self._mark = self._place(UNFINISHED_MARK)
        self._id = uuid.uuid4().hex.encode()
        left = self._left_behind()
        self._files.pipe_file(self._mark, self._id)
        for path in left:
            self._files.rm_file(path)

    def deliver(self, path: Path) -> None:
        """Upload a file and remove it here.

        Raises:
            RuntimeError: another packing has taken over.
        """
        self._check_claim()
        self._files.put_file(str(path), self._place(path.name))
        path.unlink()

    def finish(self) -> None:
        """Remove the mark.

        Raises:
            RuntimeError: another packing has taken over.
        """
        self._check_claim()
        self._files.rm_file(self._mark)

    def _left_behind(self) -> list[str]:
        """Objects of an unfinished upload."""
        self._files.invalidate_cache()
        found = self._files.find(self._out.path)
        names = {path.rsplit("/", 1)[-1] for path in found}
        if {UNFINISHED_MARK, MANIFEST_FILE} <= names:
            raise FileExistsError(
                f"{self._out} already holds a whole data set; only its mark {UNFINISHED_MARK!r} was not "
                "removed: remove that object to use the data set, or all of them to pack another"
            )
        if names and UNFINISHED_MARK not in names:
            raise FileExistsError(
                f"{self._out} already holds something: choose a new prefix or remove it first"
            )
        return [path for path in found if not path.endswith(f"/{UNFINISHED_MARK}")]

    def _check_claim(self) -> None:
        try:
            owner = self._files.cat_file(self._mark)
        except FileNotFoundError:
            owner = b""
        if owner != self._id:
            raise RuntimeError(
                f"another packing has taken over {self._out}, so this one stops: let only one write there"
            )

    def _place(self, name: str) -> str:
        return (self._out / name).path
