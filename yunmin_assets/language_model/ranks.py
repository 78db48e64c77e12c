"""The processes that train together, one per GPU (data parallel).

Every rank holds the whole model and takes its rows of each global batch; gradients are summed, so that the
update is that of one process with the whole batch. `accelerate` sets up the group, by NCCL between GPUs and by
gloo between CPU processes. A process that trains alone needs none of it.

The price: gradients travel after the backward pass and not during it.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that writes and reports."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all ranks, in place; a tensor of one process is left as it is."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
        return values


ALONE = Ranks()


def join_ranks(device: str | None) -> Ranks:
    """Join the processes that were started with this one, and put models onto this one's own GPU.

    Args:
        device: "cpu" to leave GPUs alone; otherwise each process takes the GPU of its local number.
    """
    from accelerate import PartialState  # type: ignore[import-untyped]

    from yunmin_assets.language_model.architecture import use_device

    state = PartialState(cpu=device == "cpu")
    use_device(str(state.device))
    return Ranks(state.process_index, state.num_processes)
