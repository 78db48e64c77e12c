"""The shards of a packed data set in a local folder."""

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yunmin_assets.columnar.manifest import PackManifest
from yunmin_assets.columnar.open_files import opener
from yunmin_assets.columnar.page_reader import DamagedFileError
from yunmin_assets.columnar.shard_index import ShardIndex, open_shard_index

SECONDS_FROM_MEMORY = 0.0003
"""A page that the kernel has in memory is there after a tenth of this."""
ADVICES_AFTER_SLOW_READ = 64


class LocalShards:
    """`ShardFiles` of a folder. Reading is positional, so processes that were forked may share it."""

    def __init__(self, folder: Path):
        """Look at every shard.

        Raises:
            FileNotFoundError: the manifest or a shard is missing.
            DamagedFileError: the manifest is damaged, or a shard is not as long as it says.
        """
        self.manifest = PackManifest.read(folder)
        self._paths = [folder / entry.name for entry in self.manifest.files]
        for path, entry in zip(self._paths, self.manifest.files, strict=True):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing: the manifest lists it with {entry.rows} rows")
            found_bytes = path.stat().st_size
            if found_bytes != entry.bytes:
                problem = f"the file has {found_bytes} of the {entry.bytes} bytes in the manifest"
                raise DamagedFileError(path, min(found_bytes, entry.bytes), problem)
        self._advices_left = ADVICES_AFTER_SLOW_READ  # until it is known to be fast
        self._opened = opener()

    def open_index(self, shard: int) -> ShardIndex:
        """See `ShardFiles`."""
        entry = self.manifest.files[shard]
        return open_shard_index(self._paths[shard], entry.index_sha256, self.manifest.seq_len, self._opened)

    def read(self, shard: int, offset: int, target: memoryview) -> int:
        """See `ShardFiles`."""
        started = time.perf_counter()
        size = os.preadv(self._opened(self._paths[shard]).descriptor, [target], offset)
        if time.perf_counter() - started > SECONDS_FROM_MEMORY:
            self._advices_left = ADVICES_AFTER_SLOW_READ
        return size

    def will_need(self, shard: int, offsets: NDArray[np.int64], sizes: NDArray[np.int32]) -> None:
        """Let the kernel read ahead where reads wait for the disk: it is fast with many in flight only."""
        if self._advices_left == 0 or not hasattr(os, "posix_fadvise"):  # macOS has none
            return
        self._advices_left -= 1
        file = self._opened(self._paths[shard])
        for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
            os.posix_fadvise(file.descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def forget(self, shard: int, offset: int) -> bool:
        """The folder is the original, not a copy."""
        return False

    def name(self, shard: int) -> str:
        """See `ShardFiles`."""
        return str(self._paths[shard])
