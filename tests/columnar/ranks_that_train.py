"""One rank of a data-parallel training run; `test_distributed` starts several, and kills them.

    python ranks_that_train.py RANK WORLD_SIZE PORT DATA RUN STEPS

Rank 0 writes a checkpoint into the folder RUN every few steps; a run that finds one goes on from there. Every rank
writes what it was given into `RUN/<world size>-<rank>.jsonl`, a line a step.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from yunmin_assets.columnar import PackedDataset, PackManifest

BATCH_SIZE, CHECKPOINT_EVERY = 8, 4
VOCABULARY, WIDTH = 500, 8


def main(rank: int, world_size: int, port: str, data: Path, run: Path, steps: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY))
    batches = PackedDataset(
        data, batch_size=BATCH_SIZE, rank=rank, world_size=world_size, window_pages=11, epochs=None
    )
    first, labels_per_row = 0, PackManifest.read(data).seq_len
    if (run / "state.json").exists():
        state = json.loads((run / "state.json").read_text())
        first = state["step"]
        batches.load_state_dict(state["loader"])
        model.load_state_dict(load_file(run / f"model-{first}.safetensors"))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with (run / f"{world_size}-{rank}.jsonl").open("w") as log:
        for step, batch in zip(range(first, steps), batches, strict=False):
            logits, labels = parallel(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten()
            # DDP takes the mean over ranks of what are sums here, so that short shares weigh less.
            loss = (
                F.cross_entropy(logits, labels, reduction="sum") * world_size / (BATCH_SIZE * labels_per_row)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            dist.all_reduce(loss.detach())
            line = {"step": step, "loss": loss.item() / world_size, "rows": batch["input_ids"].tolist()}
            print(json.dumps(line), file=log, flush=True)
            if (step + 1) % CHECKPOINT_EVERY == 0 and rank == 0:
                save(run, step + 1, model, batches)
    dist.destroy_process_group()


def save(run: Path, step: int, model: nn.Module, batches: PackedDataset) -> None:
    save_file(model.state_dict(), run / f"model-{step}.safetensors")
    part = run / "state.json.part"
    part.write_text(json.dumps({"step": step, "loader": batches.state_dict()}))
    part.rename(run / "state.json")


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        sys.argv[3],
        Path(sys.argv[4]),
        Path(sys.argv[5]),
        int(sys.argv[6]),
    )
