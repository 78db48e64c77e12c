"""A weight search compares candidates on rows it did not search on, counts what each cost, and chooses no control."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.dem.conftest import LORA
from tests.dem.interrupted_search import validation_rows
from tests.language_model.toy import TOY_LENGTH
from yunmin_assets.dem import Spent, WeightsConfig, diff_checkpoint, merge_checkpoints, search_weights
from yunmin_assets.dem.difference import DESCRIPTION_FILE, TENSORS_FILE
from yunmin_assets.dem.search_candidates import Candidate, candidate_table
from yunmin_assets.dem.search_rows import DomainRows
from yunmin_assets.dem.summary import describe_search, write_search
from yunmin_assets.language_model import load_model

CONFIG = WeightsConfig(steps=12, batch_size=4, learning_rate=0.1, search_rows=12, comparison_rows=10)
SMALL = {"search_rows": 2, "comparison_rows": 2}
COSTS = {"food": Spent(100, 1.0), "law": Spent(200, 2.0), "travel": Spent(400, 4.0)}
TOKENS = 12 * 3 * 4 * TOY_LENGTH  # steps · domains · rows · tokens


def search(trained, config=CONFIG, **options):
    return search_weights(trained.base, trained.diffs, validation_rows(trained.base), config, **options)


def table_of(found):
    return {row["candidate"]: row for row in found.candidates.to_pylist()}


@pytest.fixture(scope="module")
def complete(mamba2):
    """A search with everything that can be given."""
    return search(
        mamba2, training_costs=COSTS, joint=mamba2.diffs["law"], joint_cost=Spent(700, 9.0), control=LORA
    )


def test_the_chosen_candidate_has_the_lowest_loss_of_those_that_can_be_chosen(trained):
    found = search(trained)
    table = table_of(found)
    singles = ["only food", "only law", "only travel"]
    assert list(table) == ["base", "uniform", *singles, "searched"]
    assert table[found.chosen]["mean_nll"] == min(row["mean_nll"] for row in table.values())
    assert found.weights == {domain: table[found.chosen][f"weight/{domain}"] for domain in trained.diffs}
    assert found.best_single == min(singles, key=lambda name: table[name]["mean_nll"])
    assert table["searched"]["mean_nll"] < table["base"]["mean_nll"]
    for row in table.values():
        losses = [row[f"nll/{domain}"] for domain in trained.diffs]
        assert row["mean_nll"] == pytest.approx(sum(losses) / len(losses))
        assert row["perplexity"] == pytest.approx(math.exp(row["mean_nll"]))


def test_candidates_are_measured_on_rows_that_the_search_does_not_see(mamba2, tmp_path):
    found = search(mamba2)
    assert found.search_rows == dict.fromkeys(mamba2.diffs, 12)
    assert found.comparison_rows == dict.fromkeys(mamba2.diffs, 10)
    merge_checkpoints(mamba2.base, mamba2.diffs, dict.fromkeys(mamba2.diffs, 1 / 3), tmp_path / "merged")
    model = load_model(tmp_path / "merged")
    for domain, (batch,) in validation_rows(mamba2.base).items():
        rows = torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1)[12:22]
        with torch.no_grad():
            expected = model(rows, labels=rows).loss.item()
        assert table_of(found)["uniform"][f"nll/{domain}"] == pytest.approx(expected, abs=1e-5)


def test_too_few_rows_are_halved_and_a_single_one_is_refused(mamba2):
    found = search(mamba2, CONFIG.model_copy(update={"search_rows": 64, "comparison_rows": 64}))
    assert found.search_rows == found.comparison_rows == dict.fromkeys(mamba2.diffs, 12)
    validation = validation_rows(mamba2.base) | {"food": validation_rows(mamba2.base, rows=1)["food"]}
    with pytest.raises(ValueError, match=r"'food' holds 1 rows, but weights need 2.*raise splits.validation"):
        search_weights(mamba2.base, mamba2.diffs, validation, CONFIG)
    with pytest.raises(ValueError, match="no validation data given"):
        search_weights(mamba2.base, mamba2.diffs, {}, CONFIG)
    padding = {"input_ids": torch.ones(2, 24, dtype=torch.int64), "labels": torch.full((2, 24), -100)}
    with pytest.raises(ValueError, match="row 0 of the validation data of 'law' carries no label"):
        search_weights(mamba2.base, mamba2.diffs, validation_rows(mamba2.base) | {"law": [padding]}, CONFIG)


def test_the_curve_starts_at_uniform_weights_and_counts_its_tokens(mamba2):
    found = search(mamba2)
    assert len(found.curve) == CONFIG.steps
    assert found.curve[0].weights == pytest.approx(dict.fromkeys(mamba2.diffs, 1 / 3))
    assert {step.rows for step in found.curve} == {3 * 4}
    assert found.search_tokens == TOKENS


def test_a_candidate_costs_what_had_to_be_spent_for_it(complete):
    table = table_of(complete)
    expected = {
        "base": (0, 0),
        "uniform": (700, 0),
        "only food": (100, 0),
        "only law": (200, 0),
        "only travel": (400, 0),
        "searched": (700, TOKENS),
        "joint": (700, 0),
        "lora on validation": (TOKENS, 0),
    }
    assert {name: (row["training_tokens"], row["search_tokens"]) for name, row in table.items()} == expected
    assert table["base"]["cpu_seconds"] == 0
    assert table["uniform"]["cpu_seconds"] == 7.0
    assert table["only law"]["cpu_seconds"] == 2.0
    assert table["searched"]["cpu_seconds"] == 7.0 + complete.search_cpu_seconds > 7.0
    control = TOKENS + -TOKENS % (LORA.training.batch_size * TOY_LENGTH)  # up to a whole step
    candidates, domains = 8, 3
    assert complete.all_tokens == TOKENS + candidates * domains * 10 * TOY_LENGTH + control
    assert table["joint"]["cpu_seconds"] == 9.0
    assert table["lora on validation"]["cpu_seconds"] > 0


def test_a_cost_that_nobody_stated_is_not_taken_for_nothing(mamba2):
    table = table_of(search(mamba2, training_costs={"law": Spent(200, 2.0)}))
    assert table["only law"]["training_tokens"] == 200
    for name in ("uniform", "searched", "only food"):
        assert (table[name]["training_tokens"], table[name]["cpu_seconds"]) == (None, None)


def test_controls_are_measured_but_never_chosen(complete, mamba2):
    table = table_of(complete)
    controls = [name for name, row in table.items() if row["is_control"]]
    assert controls == ["joint", "lora on validation"]
    assert table["joint"]["mean_nll"] == pytest.approx(table["only law"]["mean_nll"], abs=1e-9)
    assert table["lora on validation"]["mean_nll"] < table["base"]["mean_nll"]
    lowest = min(table, key=lambda name: table[name]["mean_nll"])
    assert lowest == "lora on validation"  # on toy data it sees all there is to know
    assert complete.chosen not in controls
    assert {table[name]["weight/law"] for name in controls} == {None}
    without = search(
        mamba2, CONFIG.model_copy(update={"controls": False}), joint=mamba2.diffs["law"], control=LORA
    )
    assert not any(row["is_control"] for row in table_of(without).values())


def test_every_candidate_is_judged_against_uniform_only_with_enough_rows(complete, mamba2):
    for name, row in table_of(complete).items():
        if name == "uniform":
            assert (row["difference"], row["verdict"]) == (None, None)
            continue
        uniform = table_of(complete)["uniform"]
        assert row["difference"] == pytest.approx(row["mean_nll"] - uniform["mean_nll"])
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["verdict"] == "not shown"  # 10 rows are too few
    rows = validation_rows(mamba2.base, rows=46)
    config = CONFIG.model_copy(update={"comparison_rows": 34})
    found = search_weights(mamba2.base, mamba2.diffs, rows, config, control=LORA)
    assert table_of(found)["lora on validation"]["verdict"] == "better"


def test_a_search_is_the_same_every_time(mamba2):
    one, other = search(mamba2), search(mamba2)
    assert one.curve == other.curve
    unmeasured = [name for name in one.candidates.column_names if name != "cpu_seconds"]
    assert one.candidates.select(unmeasured).equals(other.candidates.select(unmeasured))


def test_fixed_weights_are_taken_as_given_and_still_compared(mamba2):
    fixed = {"law": 0.1, "food": -3.0, "travel": 0.5}
    config = WeightsConfig(method="fixed", fixed=fixed, search_rows=12, comparison_rows=10)
    found = search(mamba2, config, control=LORA)
    assert found.weights == fixed
    assert (found.chosen, found.curve, found.search_tokens) == ("fixed", [], 0)
    assert found.candidates.column("candidate").to_pylist()[-1] == "fixed"
    normal = search(mamba2, config.model_copy(update={"normalize": True}))
    assert normal.weights == pytest.approx({"law": -0.1 / 2.4, "food": 3.0 / 2.4, "travel": -0.5 / 2.4})
    with pytest.raises(ValueError, match=r"exactly \['food', 'law', 'travel'\], it names \['law'\]"):
        search(mamba2, config.model_copy(update={"fixed": {"law": 1.0}}))


def test_options_that_do_not_belong_together_are_refused():
    for options in ({"fixed": {"law": 1.0}}, {"normalize": True}):
        with pytest.raises(ValueError, match="belong to `method: fixed`"):
            WeightsConfig(**options)
    with pytest.raises(ValueError, match="sum to 0"):
        WeightsConfig(method="fixed", fixed={"law": 1.0, "food": -1.0}, normalize=True)


def test_per_module_finds_a_weight_for_every_tensor_that_a_domain_changes(mamba2, tmp_path):
    found = search(mamba2, CONFIG.model_copy(update={"method": "per_module"}), training_costs=COSTS)
    one_per_domain = search(mamba2)
    assert found.search_tokens == one_per_domain.search_tokens
    tensors = {f"backbone.layers.{layer}.mixer.in_proj.weight" for layer in range(2)}
    assert {domain: set(weights) for domain, weights in found.searched.items()} == dict.fromkeys(
        mamba2.diffs, tensors
    )
    row = table_of(found)["searched"]
    assert row["weight/law"] is None
    merge_checkpoints(mamba2.base, mamba2.diffs, found.searched, tmp_path / "merged")
    model, losses = load_model(tmp_path / "merged"), []
    for (batch,) in validation_rows(mamba2.base).values():
        rows = torch.cat([batch["input_ids"], batch["labels"][:, -1:]], dim=1)[12:22]
        with torch.no_grad():
            losses.append(model(rows, labels=rows).loss.item())
    assert row["mean_nll"] == pytest.approx(sum(losses) / 3, abs=1e-5)
    _, rendered = describe_search(found, mamba2.base, mamba2.diffs)
    assert all(name in rendered["weights_per_tensor"] for name in tensors)


def test_the_page_shows_every_candidate_with_its_cost_and_verdict(complete, mamba2):
    figures, rendered = describe_search(complete, mamba2.base, mamba2.diffs)
    lines = rendered["candidates"].splitlines()
    assert len(lines) == 2 + complete.candidates.num_rows
    assert f"| searched{' (**chosen**)' if complete.chosen == 'searched' else ''} |" in rendered["candidates"]
    assert "| joint (control, never chosen) |" in rendered["candidates"]
    assert figures["best_single"] == complete.best_single
    assert set(rendered) == {"candidates", "search", "weights", "cosine_between_domains"}


def test_a_loss_that_is_no_number_stops_the_search_by_name(mamba2):
    config = WeightsConfig(
        method="fixed", fixed={"law": 1e38, "food": 0.0, "travel": 0.0}, search_rows=2, comparison_rows=2
    )
    with pytest.raises(FloatingPointError, match=r"the loss on 'food' is nan .*'law': 1e\+38"):
        search(mamba2, config)


@pytest.fixture(scope="module")
def blown_up(mamba2, tmp_path_factory):
    """The difference of a model whose numbers are finite and whose logits are not."""
    folder = tmp_path_factory.mktemp("blown up")
    model = load_model(mamba2.base)
    with torch.no_grad():
        model.backbone.norm_f.weight.fill_(3e38)
        model.backbone.embeddings.weight.mul_(1000)
    model.save_pretrained(folder / "tuned")
    diff_checkpoint(mamba2.base, folder / "tuned", folder / "difference")
    return folder / "difference"


def test_a_candidate_that_is_not_finite_is_listed_without_a_loss_and_never_chosen(mamba2, blown_up, tmp_path):
    diffs = mamba2.diffs | {"law": blown_up}
    config = WeightsConfig(method="fixed", fixed={"law": 0.0, "food": 0.3, "travel": 0.3}, **SMALL)
    lines = []
    found = search_weights(
        mamba2.base, diffs, validation_rows(mamba2.base), config, joint=diffs["law"], log=lines.append
    )
    table = table_of(found)
    for name in ("uniform", "only law", "joint"):
        unknown = ("mean_nll", "perplexity", "nll/food", "difference", "p_value", "verdict")
        assert {table[name][key] for key in unknown} == {None}
        assert any(f"candidate {name!r} is not finite on ['food', 'law', 'travel']" in line for line in lines)
    assert table["fixed"]["mean_nll"] > 0
    assert found.chosen == "fixed"
    assert found.best_single in ("only food", "only travel")
    _, rendered = describe_search(found, mamba2.base, mamba2.diffs)
    assert "| only law | not finite |  |" in rendered["candidates"]
    write_search(found, tmp_path / "weights.json")
    assert "NaN" not in (tmp_path / "weights.json").read_text()
    json.loads((tmp_path / "weights.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        {"method": "gradient"},
        {"method": "grid", "trials": 8},
        {"method": "fixed", "fixed": {"law": 1.0, "food": 0.0, "travel": 0.0}},
    ],
    ids=lambda options: options["method"],
)
def test_a_search_that_is_not_finite_says_whose_difference_it_is(options, mamba2, blown_up):
    diffs = mamba2.diffs | {"law": blown_up}
    expected = (
        r"loss on 'food' .*: the difference of 'law' alone is not finite: train it again or leave it out"
    )
    with pytest.raises(FloatingPointError, match=expected):
        search_weights(
            mamba2.base, diffs, validation_rows(mamba2.base), WeightsConfig(**options, **SMALL), control=LORA
        )


def test_a_perplexity_beyond_floating_point_is_left_out():
    rows = {"law": DomainRows(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64))}
    losses = {"uniform": {"law": [15.0, 15.0]}, "only law": {"law": [4000.0, 4000.0]}}
    candidates = {name: Candidate(name, {"law": 1.0}, None) for name in losses}
    uniform, alone = candidate_table(candidates, losses, rows, ["law"], 0).to_pylist()
    assert uniform["perplexity"] == pytest.approx(math.exp(3))
    assert (alone["mean_nll"], alone["perplexity"], alone["difference"]) == (800.0, None, 797.0)


def test_a_difference_without_a_tensor_is_refused_by_name(mamba2, tmp_path):
    empty = shutil.copytree(mamba2.diffs["law"], tmp_path / "difference")
    description = json.loads((empty / DESCRIPTION_FILE).read_text())
    (empty / DESCRIPTION_FILE).write_text(json.dumps(description | {"tensors": {}}))
    save_file({}, empty / TENSORS_FILE)
    expected = r"the difference of 'law' in .* is empty, its model equals the base: leave the domain out"
    with pytest.raises(ValueError, match=expected):
        search_weights(mamba2.base, {"law": empty}, validation_rows(mamba2.base), WeightsConfig(**SMALL))
