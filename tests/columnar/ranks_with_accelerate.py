"""One rank that trains under `accelerate`; `test_distributed` starts several.

    python ranks_with_accelerate.py DATA RUN STEPS

Writes a checkpoint of the loader into `RUN/state.json` in the middle of the loop, and goes on from one that is
there. What it was given goes to `RUN/<world size>-<rank>.jsonl`, a line a step, after a line of the warnings about
a data set that was not told its rank.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from yunmin_assets.columnar import PackedDataset

VOCABULARY, WIDTH = 500, 8


def main(data: Path, run: Path, steps: int) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY))
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    batches = PackedDataset(
        data, batch_size=8, rank=rank, world_size=world_size, window_pages=11, epochs=None
    )
    first, state = 0, run / "state.json"
    if state.exists():
        first = json.loads(state.read_text())["step"]
        batches.load_state_dict(json.loads(state.read_text())["loader"])
    with (run / f"{world_size}-{rank}.jsonl").open("w") as log:
        print(json.dumps(warnings_of_a_rank_that_was_not_told(data)), file=log)
        for step, batch in zip(range(first, first + steps), batches, strict=False):
            logits, labels = model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten()
            accelerator.backward(nn.functional.cross_entropy(logits, labels))
            optimizer.step()
            optimizer.zero_grad()
            print(json.dumps({"step": step, "rows": batch["input_ids"].tolist()}), file=log)
            if step == first + steps // 2 and accelerator.is_main_process:
                checkpoint = {"step": step + 1, "loader": batches.state_dict()}
                (run / "saved.json").write_text(json.dumps(checkpoint))
    accelerator.end_training()


def warnings_of_a_rank_that_was_not_told(data: Path) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PackedDataset(data)
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
