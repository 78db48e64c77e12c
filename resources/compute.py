"""Where models run: the one place that chooses a device and how many threads work."""

import ctypes
import os
import sys
from typing import Literal

from dagster import ConfigurableResource

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT_BYTES = 1 << 30


class Compute(ConfigurableResource):
    """The device of training, scoring and generation."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU when there is one."""

    def prepare(self) -> None:
        """Make the models of this process use the device, and every core this process may use.

        Raises:
            RuntimeError: "cuda" was asked for and there is none.
        """
        import torch

        from yunmin_assets.language_model.architecture import use_device

        if self.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("compute.device is 'cuda' but no CUDA device is visible: use 'auto' or 'cpu'")
        torch.set_num_threads(_usable_cores())
        _keep_freed_memory()
        use_device(None if self.device == "auto" else self.device)


def _usable_cores() -> int:
    """Cores this process may use; macOS cannot tell, so there it is all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_freed_memory() -> None:
    """Let glibc reuse freed tensors instead of returning them: a tenth less CPU time in training on a CPU."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
