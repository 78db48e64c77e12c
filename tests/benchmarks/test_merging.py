"""The benchmark of merging: real files go in, and what is claimed of time, memory and rounding is what happened."""

import json
import os
import textwrap
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from benchmarks.measure import run_fresh
from benchmarks.merging import PEER_FOLDER, main
from benchmarks.merging_child import (
    ADAPTERS,
    DENSE,
    DIFFERENCES,
    WEIGHTS,
    output,
    prepare_differences,
    prepare_load_all,
    prepare_ours,
)
from benchmarks.merging_data import (
    CHANGE_DEVIATION,
    SCALE,
    adapted_shapes,
    write_adapter,
    write_base,
    write_tuned,
)
from benchmarks.merging_rounding import nearest_bfloat16, rounding
from benchmarks.merging_tables import targets_table

GIGABYTES = 0.004
SHARD = 1_500_000
"""Three files."""
PEERS = Path(os.environ.get("MERGING_PEERS", PEER_FOLDER))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, four fine-tuned models and four adapters."""
    folder = tmp_path_factory.mktemp("merging")
    write_base(folder / "base", GIGABYTES, SHARD)
    for seed, domain in enumerate(WEIGHTS, start=1):
        write_tuned(folder / "base", folder / DENSE / domain, seed)
        (folder / ADAPTERS / domain).mkdir(parents=True)
        write_adapter(folder / "base", folder / ADAPTERS / domain, seed)
    return folder


@pytest.fixture(scope="module", params=[DENSE, ADAPTERS])
def merged_by_ours(models: Path, request: pytest.FixtureRequest) -> tuple[str, Path]:
    """Kind, and what ours makes of it."""
    kind = request.param
    prepare_differences()(kind, models, output(DIFFERENCES, kind, models))
    prepare_ours()(kind, models, models / f"{kind}-ours")
    return kind, models / f"{kind}-ours"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_models_and_adapters_load_whole(models: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert len(list((models / "base").glob("*.safetensors"))) > 1
    for folder in (models / "base", models / DENSE / "domain-2"):
        model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(found.values()) and model.dtype == torch.bfloat16
        assert AutoTokenizer.from_pretrained(folder).eos_token == "</s>"
    base = tensors(models / "base")
    adapter = load_file(models / ADAPTERS / "domain-1" / "adapter_model.safetensors")
    loaded = PeftModel.from_pretrained(model, models / ADAPTERS / "domain-1").state_dict()
    assert len(adapter) == 2 * len(adapted_shapes(models / "base")) == 2 * 7 * 20
    for name, factor in adapter.items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")], factor)
    assert sum(tensor.nbytes for tensor in base.values()) / 1e9 == pytest.approx(GIGABYTES, rel=0.1)


def test_fine_tuning_and_adapters_change_numbers_by_as_much_as_is_said(models: Path) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    before = tensors(models / "base")[name].float()
    tuned = tensors(models / DENSE / "domain-0")[name].float()
    adapter = load_file(models / ADAPTERS / "domain-0" / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.model.layers.3.mlp.up_proj.lora_{side}.weight"] for side in "AB")
    assert before.std().item() == pytest.approx(0.02, rel=0.05)
    assert (tuned - before).std().item() == pytest.approx(CHANGE_DEVIATION, rel=0.05)
    assert (SCALE * b @ a).std().item() == pytest.approx(CHANGE_DEVIATION, rel=0.2)


def test_equal_seeds_give_equal_bytes(models: Path, tmp_path: Path) -> None:
    write_base(tmp_path / "base", GIGABYTES, SHARD)
    write_tuned(tmp_path / "base", tmp_path / "tuned", seed=2)
    for again, first in (
        (tmp_path / "base", models / "base"),
        (tmp_path / "tuned", models / DENSE / "domain-1"),
    ):
        for path in first.iterdir():
            assert (again / path.name).read_bytes() == path.read_bytes()


def test_ours_and_loading_everything_agree(
    models: Path, merged_by_ours: tuple[str, Path], tmp_path: Path
) -> None:
    kind, ours = merged_by_ours
    prepare_load_all()(kind, models, tmp_path / "all")
    streamed, whole, base = tensors(ours), tensors(tmp_path / "all"), tensors(models / "base")
    assert streamed.keys() == whole.keys() == base.keys()
    for name, tensor in streamed.items():
        torch.testing.assert_close(
            tensor, whole[name], rtol=2**-7, atol=2**-29
        )  # a unit in the last place: of bfloat16, of the sum
        changes = tensor.dim() > 1 and (
            kind == DENSE or "_proj" in name
        )  # the norms' scales round to what they were
        assert torch.equal(tensor, base[name]) == (not changes)


def test_ours_is_almost_always_correctly_rounded(models: Path, merged_by_ours: tuple[str, Path]) -> None:
    kind, ours = merged_by_ours
    report = rounding(kind, models, ours)
    assert report["rounded"] > 0.98 and report["others_kept"]
    changed = tensors(models / "base").values() if kind == DENSE else adapted_shapes(models / "base").values()
    assert report["changed_elements"] == sum(
        int(np.prod(shape if isinstance(shape, tuple) else shape.shape)) for shape in changed
    )


def test_an_exact_result_is_rounded_correctly_and_a_spoiled_one_is_not(models: Path, tmp_path: Path) -> None:
    base = tensors(models / "base")
    tuned = {domain: tensors(models / DENSE / domain) for domain in WEIGHTS}
    exact = {}
    for name, tensor in base.items():
        start = tensor.double()
        total = start + sum(
            weight * (tuned[domain][name].double() - start) for domain, weight in WEIGHTS.items()
        )
        exact[name] = torch.from_numpy(nearest_bfloat16(total.numpy())).to(torch.bfloat16)
    (tmp_path / "exact").mkdir()
    save_file(exact, tmp_path / "exact" / "model.safetensors")
    assert (
        rounding(DENSE, models, tmp_path / "exact")["rounded"] > 1 - 1e-6
    )  # sums of float64 in another order
    name = "model.layers.0.mlp.up_proj.weight"
    exact[name].view(torch.int16).bitwise_xor_(1)
    (tmp_path / "spoiled").mkdir()
    save_file(exact, tmp_path / "spoiled" / "model.safetensors")
    spoiled = base[name].numel() / sum(tensor.numel() for tensor in base.values())
    assert rounding(DENSE, models, tmp_path / "spoiled")["rounded"] == pytest.approx(1 - spoiled, abs=1e-6)


def test_a_change_where_there_is_no_adapter_and_a_missing_tensor_are_seen(
    models: Path, tmp_path: Path
) -> None:
    base = tensors(models / "base")
    base["lm_head.weight"][0, 0] += 1
    save_file(base, tmp_path / "model.safetensors")
    report = rounding(ADAPTERS, models, tmp_path)
    assert not report["others_kept"]
    assert report["rounded"] < 0.9  # nothing was merged
    del base["lm_head.weight"]
    save_file(base, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has other tensors than"):
        rounding(ADAPTERS, models, tmp_path)


@given(st.floats(-1e30, 1e30, allow_subnormal=False))
def test_rounding_takes_the_nearer_neighbour_and_of_two_the_even_one(number: float) -> None:
    found = nearest_bfloat16(np.array([number]))
    rounded = torch.from_numpy(found).to(torch.bfloat16)
    assert rounded.double().item() == found[0]  # it is a bfloat16
    distance = abs(Fraction(number) - Fraction(found[0]))
    bits = rounded.view(torch.int16)
    for step in (-1, 1):
        neighbour = (
            Fraction((bits + step).view(torch.bfloat16).double().item()) if bits & 0x7FFF else Fraction(1)
        )
        other = abs(Fraction(number) - neighbour)
        assert distance < other or (distance == other and bits.item() % 2 == 0)


def test_rounding_once_is_not_rounding_twice() -> None:
    just_above_the_middle = 1 + 2**-8 + 2**-40
    assert nearest_bfloat16(np.array([just_above_the_middle]))[0] == 1 + 2**-7
    twice = torch.tensor([just_above_the_middle], dtype=torch.float64).float().to(torch.bfloat16)
    assert twice.item() == 1  # float32 is in the middle, and the even neighbour is below


def test_extra_memory_counts_what_was_allocated_and_no_mapped_file(tmp_path: Path) -> None:
    (tmp_path / "allocating.py").write_text(
        textwrap.dedent("""
            import json, sys, time
            import numpy as np
            from dataclasses import asdict
            from benchmarks.measure import measured
            def work():
                kept = np.ones(64_000_000, np.uint8)
                mapped = np.memmap(sys.argv[1], np.uint8, "r").sum()
                time.sleep(0.1)
            print(json.dumps(asdict(measured(work)[1])))
        """)
    )
    (tmp_path / "file").write_bytes(bytes(32_000_000))
    report = run_fresh("allocating", [str(tmp_path / "file")], environment={"PYTHONPATH": str(tmp_path)})
    assert report["peak_anonymous_mb"] - report["anonymous_before_mb"] == pytest.approx(64, abs=3)
    assert report["peak_rss_mb"] - report["rss_before_mb"] == pytest.approx(96, abs=3)


def test_a_run_reports_all_tools_and_names_absent_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--gigabytes", str(GIGABYTES), "--repeat", "1", "--work", str(tmp_path), "--kinds", "dense"]
    tools = ["--tools", "ours,mergekit,floor", "--peers", str(tmp_path / "nothing")]
    main([*options, *tools, "--json", str(tmp_path / "lines")])
    differences, ours, peer, floor = map(json.loads, (tmp_path / "lines").read_text().splitlines())
    assert ours["bytes_read"] >= 5 * ours["base_bytes"]  # and compiled kernels
    assert floor["bytes_read"] == pytest.approx(5 * ours["base_bytes"], rel=0.1)
    assert floor["bytes_written"] == pytest.approx(ours["base_bytes"], rel=0.01)
    assert ours["rounded"] > 0.98 and ours["wall_s"] > 0 and differences["tool"] == "differences"
    printed = capsys.readouterr().out
    if "absent" in peer:
        assert peer["install"] in printed
    assert "| ours " in printed and "dense: extra MB" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines"]  # nothing is left of the models


def test_memory_is_measured_for_models_of_several_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--gigabytes", str(GIGABYTES), "--memory-scale", "1,4", "--kinds", "dense"]
    main([*options, "--work", str(tmp_path), "--markdown", "--json", str(tmp_path / "lines")])
    reports = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [report["tool"] for report in reports] == 2 * [DIFFERENCES, "ours"]
    small, large = reports[1], reports[3]
    assert large["largest_tensor_bytes"] == 4 * small["largest_tensor_bytes"]
    assert large["base_bytes"] == pytest.approx(4 * small["base_bytes"], rel=0.05)
    assert "| GB of base |" in capsys.readouterr().out


@pytest.mark.skipif(
    not (PEERS / "mergekit").is_dir(), reason=f"mergekit is not in {PEERS}, see benchmarks/merging_peers.txt"
)
def test_mergekit_merges_models_and_adapters(tmp_path: Path) -> None:
    options = ["--gigabytes", str(GIGABYTES), "--repeat", "1", "--work", str(tmp_path), "--peers", str(PEERS)]
    main([*options, "--tools", "mergekit,mergekit-float32", "--json", str(tmp_path / "lines")])
    for report in map(json.loads, (tmp_path / "lines").read_text().splitlines()):
        assert report["rounded"] > (0.8 if report["tool"] == "mergekit" else 0.99), report
        assert report["others_kept"] and report["versions"]["mergekit"] == "0.1.5"


def test_a_target_that_is_missed_says_so() -> None:
    ours = {"kind": DENSE, "tool": "ours", "wall_s": 2.0, "extra_anonymous_mb": 60.0, "rounded": 0.9}
    others = [
        {"kind": DENSE, "tool": tool, "wall_s": 2.0} for tool in ("floor", "mergekit", "mergekit-float32")
    ]
    table = targets_table([ours | {"others_kept": True}, *others])
    verdicts = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in table.splitlines()[2:]}
    assert verdicts == {
        "dense: extra MB": "reached",
        "dense: seconds against plain reading and writing": "reached",
        "dense: times as fast as mergekit": "NOT REACHED",
        "dense: share of correctly rounded numbers": "NOT REACHED",
        "dense: tensors that nothing changes are the base's": "reached",
    }


def test_an_unknown_tool_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tools", "ours,magic"])
    assert "unknown: magic; there are ours" in capsys.readouterr().err
