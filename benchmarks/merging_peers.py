"""mergekit for `benchmarks/merging.py`, by its own Python interface.

It needs no other version of anything we have: `merging_peers.txt` says what it needs beside. Other settings
for the CPU (`out_shard_size` of 200 MB or 5 GB, `async_write`, `num_threads`) changed neither time nor memory by more
than the machine's noise. `lazy_unpickle` concerns pickled models only; safetensors are always read lazily.

An adapter (`model+adapter`) is first merged by peft into a whole model, which is saved to `lora_merge_cache`.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SHARD_BYTES = 10**9


def merge_with_mergekit(
    weights: Mapping[str, float], dtypes: Mapping[str, str], **options: Any
) -> Callable[[str, Path, Path], None]:
    """Import mergekit and return the merge of whole models or adapters.

    Args:
        weights: of the domains.
        dtypes: `dtype` of the sum, and perhaps `out_dtype`.
        options: beside the ones above.
    """
    from mergekit.config import MergeConfiguration  # type: ignore[import-not-found]
    from mergekit.merge import MergeOptions, run_merge  # type: ignore[import-not-found]

    def merge(kind: str, folder: Path, out: Path) -> None:
        base = folder / "base"
        prefix = f"{base}+" if kind == "adapters" else ""
        models = [
            {"model": f"{prefix}{folder / kind / domain}", "parameters": {"weight": weight}}
            for domain, weight in weights.items()
        ]
        recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": models, **dtypes}
        with tempfile.TemporaryDirectory(dir=folder, prefix="lora-cache-") as cache:
            settings = MergeOptions(
                lazy_unpickle=True, out_shard_size=SHARD_BYTES, lora_merge_cache=cache, quiet=True, **options
            )
            run_merge(MergeConfiguration.model_validate(recipe), str(out), options=settings)

    return merge
