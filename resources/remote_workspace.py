"""Checkpoints that survive the machine they were written on: a local folder, mirrored to the lake.

    <home>/<attempt>/state.json    which object holds which file; replaced in one atomic step, after the objects
    <home>/<attempt>/files/<n>     the objects

While a step computes, a thread mirrors its folder every few seconds, once more when the step fails or is told to end.
What `state.json` describes is the folder as it was at one moment, so who goes on from it finds what a kill at that
moment would have left on a local disk. That holds because hard links keep the files of that moment while they are
uploaded, and a file that was changed in place meanwhile, as its size or time shows, puts the state off to the next
pass. Writing through a memory map need not move the time, and a large file that is always being changed in place puts
the state off for good: such a file is scratch and has to be called `*.tmp`. Files that are being written (`*.part`,
`*.tmp`) and locks (`*.lock`) are nobody's state and stay behind, and so do empty folders.

Every attempt has a folder of its own and begins with what the newest one before it left: a pod that was given up
but lives on cannot mix its files with those of its successor. Which one is the newest is told by the clocks of the
nodes: they have to agree to within the time between two attempts.

Price: every checkpoint is uploaded once, and the disk keeps a replaced one until then; an attempt that goes on from
another uploads all it fetched once more. s3fs holds about ten parts of 50 MB of a large file in memory. At most the
last `SECONDS_BETWEEN_PASSES` and the upload are lost.
"""

import datetime as dt
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from upath import UPath

from resources.in_use import held
from resources.pointer import read_whole, write_whole

SECONDS_BETWEEN_PASSES = 5.0
SECONDS_BETWEEN_SIGNS_OF_LIFE = 3600.0
"""So often the state is written though nothing changed, so that nobody takes the folder for abandoned."""
SECONDS_BEFORE_WARNING = 300.0
"""So long the state is put off silently."""
LINKING_ATTEMPTS = 10

STATE, FILES = "state.json", "files"
UNFINISHED = {"part", "tmp", "lock"}
"""What the names of files and folders that are not mirrored have after a dot."""
ATTEMPT = "attempt-"
"""How the local folder of an attempt begins; one that nobody holds was left by a killed process."""

logger = logging.getLogger(__name__)


class Identity(NamedTuple):
    """What tells a file from the one that replaces it."""

    inode: int
    bytes: int
    modified: int


@contextmanager
def mirrored_folder(home: UPath, parent: Path) -> Iterator[Path]:
    """A local folder that begins with what an earlier attempt left in `home`, and is mirrored there.

    Args:
        home: remote folder of all attempts at one computation.
        parent: local folder to make it in. It is removed in the end.

    Raises:
        OSError: what an earlier attempt left cannot be fetched.
    """
    parent.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S%f")
    with (
        tempfile.TemporaryDirectory(dir=parent, prefix=ATTEMPT, ignore_cleanup_errors=True) as own,
        held(Path(own)),
    ):
        folder = Path(own) / "workspace"
        _fetch_newest(home, folder)
        mirror = _Mirror(home / f"{now}-{uuid.uuid4().hex[:8]}", folder, Path(own) / "links")
        mirror.start()
        try:
            yield folder
        except BaseException:
            mirror.stop()
            mirror.try_pass()
            raise
        mirror.stop()


class _Mirror:
    """Keeps a remote copy of a folder, by a thread between `start` and `stop`."""

    def __init__(self, remote: UPath, folder: Path, links: Path) -> None:
        self._remote, self._folder, self._links = remote, folder, links
        self._objects: dict[Identity, str] = {}
        # Who finds files must say so when they are gone; who finds none has nothing to say yet.
        self._stored: dict[str, Identity] | None = None if _scan(folder) else {}
        self._stored_at = self._agreed_at = time.monotonic()
        self._count = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="checkpoint mirror", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the pass that is under way."""
        self._ended.set()
        self._thread.join()

    def try_pass(self) -> None:
        """Mirror the folder once. A store that cannot be reached must not end the computation: it is warned of."""
        try:
            self._mirror()
        except Exception as error:  # of the store, its client or the disk
            logger.warning(
                "checkpoints in %s could not be mirrored to %s: %s", self._folder, self._remote, error
            )
        finally:
            shutil.rmtree(self._links, ignore_errors=True)

    def _go_on(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_PASSES):
            self.try_pass()

    def _mirror(self) -> None:
        if self._is_stored():
            self._agreed_at = time.monotonic()
            return
        files = _link_all(self._folder, self._links)
        if files is None:
            self._put_off("it does not come to rest")
            return
        for name, identity in files.items():
            if identity not in self._objects:
                self._objects[identity] = self._upload(self._links / name)
        found = {name: _identity(self._links / name) for name in files}
        if found != files:  # the next pass takes what it is by then
            self._remove_all_but({*found.values(), *(self._stored or {}).values()})
            changed = sorted(name for name in files if found[name] != files[name])
            self._put_off(f"{', '.join(changed[:3])} changed in place while uploaded: call scratch *.tmp")
            return
        state = {
            name: {"object": self._objects[identity], "bytes": identity.bytes}
            for name, identity in files.items()
        }
        write_whole(self._remote / STATE, json.dumps(state).encode())
        self._stored, self._stored_at = files, time.monotonic()
        self._agreed_at = self._stored_at
        self._remove_all_but(files.values())

    def _is_stored(self) -> bool:
        if time.monotonic() - self._stored_at >= SECONDS_BETWEEN_SIGNS_OF_LIFE:
            return False
        try:
            return _scan(self._folder) == self._stored
        except FileNotFoundError:  # something was removed between two looks
            return False

    def _put_off(self, reason: str) -> None:
        waited = time.monotonic() - self._agreed_at
        if waited >= SECONDS_BEFORE_WARNING:
            logger.warning("no checkpoint of %s stored for %.0f s: %s", self._folder, waited, reason)
            self._agreed_at = time.monotonic()  # warn again only after as long

    def _upload(self, path: Path) -> str:
        name = f"{self._count:08}"
        self._count += 1
        self._remote.fs.put_file(str(path), (self._remote / FILES / name).path)
        return name

    def _remove_all_but(self, kept: Collection[Identity]) -> None:
        for identity in self._objects.keys() - set(kept):
            path = self._remote / FILES / self._objects.pop(identity)
            path.fs.rm_file(path.path)


def _link_all(folder: Path, links: Path) -> dict[str, Identity] | None:
    """Hard links to all finished files of one moment; None while the folder does not come to rest."""
    for _ in range(LINKING_ATTEMPTS):
        shutil.rmtree(links, ignore_errors=True)
        try:
            files = _scan(folder)
            for name in files:
                (links / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(folder / name, links / name)
            if files == _scan(links) == _scan(folder):
                return files
        except FileNotFoundError:
            continue  # it was removed or replaced between two looks
    return None


def _scan(folder: Path) -> dict[str, Identity]:
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_finished(name))
        for name in sorted(filter(_is_finished, names)):
            path = Path(place) / name
            found[path.relative_to(folder).as_posix()] = _identity(path)
    return found


def _is_finished(name: str) -> bool:
    return UNFINISHED.isdisjoint(name.split(".")[1:])


def _identity(path: Path) -> Identity:
    status = path.stat()
    return Identity(status.st_ino, status.st_size, status.st_mtime_ns)


def _fetch_newest(home: UPath, folder: Path) -> None:
    """Fill a folder with the state of the newest attempt that left a whole one."""
    folder.mkdir()
    attempts = sorted(home.iterdir(), key=lambda path: path.name, reverse=True) if home.exists() else []
    for attempt in attempts:
        state = None
        # An attempt that lives on may replace its objects while they are fetched: then its state is another.
        while (latest := _read_state(attempt)) is not None and latest != state:
            state = latest
            try:
                _fetch(attempt, state, folder)
                return
            except FileNotFoundError:
                shutil.rmtree(folder)
                folder.mkdir()
        reason = "no whole state was stored" if state is None else "files of its state are gone"
        logger.warning("the checkpoints of the earlier attempt %s are passed over: %s", attempt, reason)


def _read_state(attempt: UPath) -> dict[str, Any] | None:
    try:
        return dict(json.loads(read_whole(attempt / STATE)))
    except FileNotFoundError:
        return None


def _fetch(attempt: UPath, state: dict[str, Any], folder: Path) -> None:
    for name, stored in state.items():
        path, source = folder / name, attempt / FILES / stored["object"]
        path.parent.mkdir(parents=True, exist_ok=True)
        source.fs.get_file(source.path, str(path))
        if path.stat().st_size != stored["bytes"]:
            raise OSError(f"{source} gave {path.stat().st_size} of {stored['bytes']} bytes: run it again")
