"""One weight search, once, in a process of its own: `python -m benchmarks.weight_search_child`.

`weight_search` starts it: first with `prepare`, then with one method after the other.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.weight_search_data import (
    JOINT,
    Sizes,
    lora_config,
    prepare,
    read_domains,
    sample_domains,
)
from yunmin_assets.columnar import PackedDataset
from yunmin_assets.dem import Spent, Weight, WeightsConfig, WeightSearch, search_weights
from yunmin_assets.dem.difference import open_differences
from yunmin_assets.dem.search_candidates import ON_VALIDATION, SEARCHED
from yunmin_assets.dem.search_losses import loss_per_token, losses_of_rows, mean_over_domains
from yunmin_assets.dem.search_rows import DomainRows, Rows
from yunmin_assets.dem.weight_files import WeightFiles
from yunmin_assets.dem.weighted_model import WeightedModel
from yunmin_assets.dem.weights import CONTROL_FOLDER
from yunmin_assets.language_model import load_model

FEW = "-few"
"""End of the name of a method that is given only a few rows."""
WITH_OTHERS = "gradient"
"""The method whose process also measures the models that need no search."""
OPTIONS_FILE = "options.json"
ROWS_AT_ONCE = 16

Report = dict[str, Any]


def main() -> None:
    """Prepare, or print one report per model as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", help="prepare, or a method")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = json.loads((arguments.folder / OPTIONS_FILE).read_text())
    if arguments.what == "prepare":
        names, documents = options["domains"], options["documents"]
        corpus = options["corpus"]
        texts = read_domains(Path(corpus), names, documents) if corpus else sample_domains(names, documents)
        prepare(texts, Sizes(**options["sizes"]), arguments.folder, lambda line: print(line, file=sys.stderr))
        print(json.dumps({}))
    else:
        print(json.dumps({"models": search(arguments.what, options, arguments.folder)}))


def search(what: str, options: Report, folder: Path) -> list[Report]:
    """A report about what the method found; of `gradient` also about the models that need no search."""
    config = WeightsConfig(
        method=what.removesuffix(FEW),
        trials=options["trials"],
        search_rows=options["few_rows"] if what.endswith(FEW) else options["search_rows"],
        comparison_rows=options["comparison_rows"],
        controls=what == WITH_OTHERS,
    )
    costs = {name: Spent(**cost) for name, cost in json.loads((folder / "costs.json").read_text()).items()}
    diffs = {domain: folder / "differences" / domain for domain in sorted(options["domains"])}
    with tempfile.TemporaryDirectory() as work:
        found = search_weights(
            folder / "base",
            diffs,
            {domain: _open(folder, domain, "validation", ROWS_AT_ONCE) for domain in diffs},
            config,
            training_costs=costs,
            joint=folder / "differences" / JOINT,
            joint_cost=costs[JOINT],
            control=lora_config(options["sizes"]["rank"], steps=1),
            work_dir=Path(work),
        )
        rows = {
            "search": _first_rows(folder, "validation", found.search_rows),
            "test": _first_rows(folder, "test", {domain: options["test_rows"] for domain in diffs}),
        }
        simple = _simple_choices(list(diffs), found) if what == WITH_OTHERS else {}
        losses = _losses(folder, diffs, {**simple, SEARCHED: found.searched}, rows)
        if what == WITH_OTHERS:
            control = Path(work) / CONTROL_FOLDER / "difference"
            for name, difference in ((JOINT, folder / "differences" / JOINT), (ON_VALIDATION, control)):
                losses |= _losses(folder, {name: difference}, {name: {name: 1.0}}, rows)
    by_name = {row["candidate"]: row for row in found.candidates.to_pylist()}
    return [_report(what, name, of_model, by_name[name], found) for name, of_model in losses.items()]


def _simple_choices(domains: list[str], found: WeightSearch) -> dict[str, dict[str, Weight]]:
    assert found.best_single is not None
    return {
        "base": dict.fromkeys(domains, 0.0),
        "uniform": dict.fromkeys(domains, 1 / len(domains)),
        found.best_single: {domain: float(found.best_single == f"only {domain}") for domain in domains},
    }


def _report(
    what: str, name: str, losses: Mapping[str, float], candidate: Report, found: WeightSearch
) -> Report:
    is_searched = name == SEARCHED
    return {
        "model": what if is_searched else name,
        "search_rows": next(iter(found.search_rows.values())),
        "search_loss": losses["search"],
        "comparison_loss": candidate["mean_nll"],
        "test_loss": losses["test"],
        "training_tokens": candidate["training_tokens"],
        "search_tokens": candidate["search_tokens"],
        "search_cpu_s": found.search_cpu_seconds if is_searched else 0.0,
        "cpu_s": candidate["cpu_seconds"],
        "weights": found.searched if is_searched else None,
    }


def _losses(
    folder: Path,
    diffs: Mapping[str, Path],
    models: Mapping[str, Mapping[str, Weight]],
    rows: Mapping[str, Rows],
) -> dict[str, dict[str, float]]:
    """By model and set of rows, the mean over domains of the loss per token."""
    base = WeightFiles(folder / "base")
    model = WeightedModel(load_model(folder / "base"), base, open_differences(base, diffs))
    losses: dict[str, dict[str, float]] = {}
    for name, weights in models.items():
        model.set_weights(weights)
        losses[name] = {
            what: mean_over_domains(loss_per_token(losses_of_rows(model, some, ROWS_AT_ONCE), some))
            for what, some in rows.items()
        }
    return losses


def _first_rows(folder: Path, split: str, counts: Mapping[str, int]) -> Rows:
    rows = {}
    for domain, count in counts.items():
        batch = next(iter(_open(folder, domain, split, count)))
        rows[domain] = DomainRows(batch["input_ids"], batch["labels"])
    return rows


def _open(folder: Path, domain: str, split: str, batch_size: int) -> PackedDataset:
    return PackedDataset(folder / "rows" / domain / split, batch_size=batch_size, shuffle=False)


if __name__ == "__main__":
    main()
