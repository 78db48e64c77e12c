"""`python -m tests.dem.measured_merge BASE OUT WEIGHT=DIFF…`: says when everything is imported, then merges."""

import sys
from pathlib import Path

from yunmin_assets.dem.merge import merge_checkpoints

if __name__ == "__main__":
    base, out, *differences = sys.argv[1:]
    pairs = [argument.split("=", 1) for argument in differences]
    print("imported", flush=True)
    merge_checkpoints(
        Path(base),
        {str(i): Path(folder) for i, (_, folder) in enumerate(pairs)},
        {str(i): float(weight) for i, (weight, _) in enumerate(pairs)},
        Path(out),
    )
