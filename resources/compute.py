"""Where models run: the one place that chooses a device and how many threads work."""

import ctypes
import sys
from typing import TYPE_CHECKING, Literal

from dagster import ConfigurableResource
from pydantic import Field

from yunmin_assets.language_model.processes import usable_cores
from yunmin_assets.progress import Log

if TYPE_CHECKING:
    from yunmin_assets.dem import AdapterJob
    from yunmin_assets.language_model import TrainingResult
    from yunmin_assets.language_model.training import Report

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT_BYTES = 1 << 30


class Compute(ConfigurableResource):
    """The device of training, scoring and generation."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU when there is one."""
    processes: int = Field(default=0, ge=0)
    """Processes that train one adapter together; 0: one for each visible GPU that the batch can be shared among."""

    def prepare(self) -> None:
        """Make the models of this process use the device, and every core this process may use.

        Raises:
            RuntimeError: "cuda" was asked for and there is none.
        """
        import torch

        from yunmin_assets.language_model.architecture import use_device

        if self.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("compute.device is 'cuda' but no CUDA device is visible: use 'auto' or 'cpu'")
        torch.set_num_threads(usable_cores())
        _keep_freed_memory()
        use_device(None if self.device == "auto" else self.device)

    def train(self, job: "AdapterJob", *, log: Log, report: "Report") -> "TrainingResult":
        """Train an adapter on the device: in this process, or by one process for each of several GPUs.

        Raises:
            RuntimeError: "cuda" was asked for and there is none; or see `run_adapter_job`.
        """
        from yunmin_assets.dem import run_adapter_job

        self.prepare()
        job = job.model_copy(update={"device": "cpu" if self.device == "cpu" else None})
        processes = self.processes or self._visible_gpus(job.config.training.batch_size)
        if processes > 1:
            log(f"{processes} processes train together")
        return run_adapter_job(job, processes=processes, log=log, report=report)

    def _visible_gpus(self, batch_size: int) -> int:
        import torch

        from yunmin_assets.dem.adapter_job import largest_process_count

        gpus = torch.cuda.device_count() if self.device != "cpu" else 0
        return largest_process_count(gpus, batch_size)


def _keep_freed_memory() -> None:
    """Let glibc reuse freed tensors instead of returning them: a tenth less CPU time in training on a CPU."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
