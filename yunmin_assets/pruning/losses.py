"""Losses of batches of windows: the inner loop of scoring.

Where the time goes with a small model is not the model: softmax over the vocabulary costs as much. So

- only hidden states whose loss is counted reach the output layer, neither padding nor repeated context;
- logits exist for a few rows at a time, in place, in the processor's cache: loss = log Σ exp(logits) − target logit;
- on a CPU every core works on batches of its own with one thread, which wastes no time on waiting, and makes the
  result independent of the number of threads;
- Mamba-2's chunks divide the batch's length evenly on a CPU; transformers pads every batch to whole chunks, so
  that 25 tokens would cost as much as 64. The chunk size does not change what is computed, only its rounding.

On a GPU one batch runs at a time, and matrix products and convolutions are kept from rounding to TF32.
"""

import copy
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from yunmin_assets.pruning.windows import Window

LOGITS_AT_ONCE = {"cpu": 1 << 18}  # a megabyte of float32, so that they stay in the cache of a core
LOGITS_AT_ONCE_ON_A_GPU = 1 << 26
LONGEST_CPU_CHUNK = 32  # positions; measured fastest at 16 to 32 without gradients, 64 costs a tenth more
BATCHES_AHEAD_PER_WORKER = 2

Tokens = NDArray[np.int32]


class WindowLosses:
    """Computes the loss of windows with one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._has_linear_head = has_linear_head(model)
        self._of_thread = threading.local()

    def sums(
        self, batches: Iterable[list[Window]], sequences: Sequence[Tokens]
    ) -> Iterator[NDArray[np.float64]]:
        """The summed loss of each window's counted targets in nats, batch by batch, in the order of `batches`.

        Args:
            batches: windows, the longest of each batch first.
            sequences: by document, the end-of-text id and the document's tokens.
        """

        def of_batch(batch: list[Window]) -> NDArray[np.float64]:
            return self._batch_sums(batch, sequences)

        on_cpu = self._model.device.type == "cpu"
        yield from _in_order(of_batch, batches, torch.get_num_threads() if on_cpu else 1)

    @torch.inference_mode()
    def _batch_sums(self, batch: list[Window], sequences: Sequence[Tokens]) -> NDArray[np.float64]:
        tokens, counted = _padded(batch, sequences)
        device = self._model.device
        on_device, is_counted = torch.from_numpy(tokens).to(device), torch.from_numpy(counted).to(device)
        model = self._fitted_model(batch[0].length)
        with _no_tf32():
            body, head = (
                (model.base_model, model.get_output_embeddings())
                if self._has_linear_head
                else (model, nn.Identity())
            )
            hidden = body(input_ids=on_device[:, :-1], use_cache=False)[0]
            losses = token_losses(hidden[is_counted], head, on_device[:, 1:][is_counted])
        starts = np.cumsum([0, *(window.counted for window in batch[:-1])])
        return np.add.reduceat(losses.cpu().double().numpy(), starts)

    def _fitted_model(self, length: int) -> PreTrainedModel:
        """The model; for Mamba-2 on a CPU, this thread's shell around the same weights, its chunks fitted."""
        if self._model.config.model_type != "mamba2" or self._model.device.type != "cpu":
            return self._model
        if not hasattr(self._of_thread, "model"):
            self._of_thread.model = _shell(self._model)
        chunks = math.ceil(length / LONGEST_CPU_CHUNK)
        for module in self._of_thread.model.modules():
            if hasattr(module, "chunk_size"):
                module.chunk_size = math.ceil(length / chunks)
        return self._of_thread.model


def token_losses(hidden: torch.Tensor, head: nn.Module, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, float32 [tokens], without ever holding the logits of all tokens.

    Args:
        hidden: [tokens, hidden size].
        head: from hidden states to logits.
        targets: int64 [tokens].
    """
    if not len(hidden):
        return torch.empty(0)
    vocabulary = _logits(head, hidden[:1]).shape[-1]
    rows = max(LOGITS_AT_ONCE.get(hidden.device.type, LOGITS_AT_ONCE_ON_A_GPU) // vocabulary, 1)
    losses = []
    for some, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = _logits(head, some)
        largest = logits.amax(-1, keepdim=True)
        shortfall = largest - logits.gather(-1, wanted[:, None])
        losses.append((logits.sub_(largest).exp_().sum(-1, keepdim=True).log_() + shortfall)[:, 0])
    return torch.cat(losses)


@torch.inference_mode()
def has_linear_head(model: PreTrainedModel) -> bool:
    """Whether logits are nothing but the output layer applied to the last hidden states; tried, not assumed.

    Some architectures scale or cap them. Those are scored by way of their own logits, which takes more memory.
    """
    body, head = model.base_model, model.get_output_embeddings()
    if body is model or head is None:
        return False
    tokens = torch.zeros(1, 2, dtype=torch.int64, device=model.device)
    logits = model(input_ids=tokens, use_cache=False).logits.float()
    own = _logits(head, body(input_ids=tokens, use_cache=False)[0])
    return torch.equal(logits, own)


def _logits(head: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Float32; Mamba's residual stream stays float32 in a bfloat16 model, its output layer does not."""
    weight = getattr(head, "weight", hidden)
    return head(hidden.to(weight.dtype)).float()


def _padded(batch: list[Window], sequences: Sequence[Tokens]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """int64 [windows, longest + 1] tokens padded on the right, which a causal model cannot see, and what counts."""
    longest = batch[0].length
    tokens = np.zeros((len(batch), longest + 1), dtype=np.int64)
    counted = np.zeros((len(batch), longest), dtype=bool)
    for row, window in enumerate(batch):
        end = window.begin + window.length + 1
        tokens[row, : window.length + 1] = sequences[window.document][window.begin : end]
        counted[row, window.context : window.length] = True
    return tokens, counted


def _shell(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules that shares every parameter and buffer."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _in_order(
    function: Callable[[list[Window]], NDArray[np.float64]], batches: Iterable[list[Window]], workers: int
) -> Iterator[NDArray[np.float64]]:
    """`map` on threads in each of which torch works alone; few batches are ahead of the caller."""
    threads = torch.get_num_threads()
    running: deque[Future[NDArray[np.float64]]] = deque()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for batch in batches:
                running.append(pool.submit(function, batch))
                if len(running) > workers * BATCHES_AHEAD_PER_WORKER:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            torch.set_num_threads(threads)


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Keep float32 products and convolutions exact on a GPU, where they may round to 10 bits by default."""
    if not torch.cuda.is_available():
        yield
        return
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
