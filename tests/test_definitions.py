"""The graph that users see: names, lineage, owners; and that it loads fast and without warnings."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from definitions import defs
from resources.publishing import RETRIES
from tests.conftest import REPOSITORY

CODE_SERVER_CPU_SECONDS = 5.0
BIN = Path(sys.executable).parent

LINEAGE = {
    "raw_corpus": ("corpus", True, set()),
    "clean_corpus": ("corpus", True, {"raw_corpus"}),
    "signatures": ("dedup", True, {"clean_corpus"}),
    "duplicate_clusters": ("dedup", False, {"signatures", "clean_corpus"}),
    "deduped_corpus": ("dedup", True, {"clean_corpus", "duplicate_clusters"}),
    "tokenizer": ("columnar", False, {"deduped_corpus"}),
    "reference_model": ("pruning", False, {"deduped_corpus", "tokenizer"}),
    "perplexity": ("pruning", True, {"deduped_corpus", "reference_model"}),
    "pruning_thresholds": ("pruning", False, {"perplexity"}),
    "pruned_corpus": ("pruning", True, {"deduped_corpus", "perplexity", "pruning_thresholds"}),
    "pruning_study": ("pruning", False, {"deduped_corpus", "perplexity", "tokenizer"}),
    "parquet_shards": ("columnar", True, {"pruned_corpus", "deduped_corpus", "tokenizer"}),
    "loading_benchmark": ("columnar", False, {"parquet_shards"}),
    "base_model": ("dem", False, {"deduped_corpus", "tokenizer"}),
    "lora_adapter": ("dem", True, {"parquet_shards", "base_model"}),
    "joint_adapter": ("dem", False, {"lora_adapter", "parquet_shards", "base_model"}),
    "diff_vector": ("dem", True, {"lora_adapter", "base_model"}),
    "domain_weights": (
        "dem",
        False,
        {"base_model", "diff_vector", "joint_adapter", "lora_adapter", "parquet_shards"},
    ),
    "merged_model": ("dem", False, {"base_model", "diff_vector", "domain_weights", "parquet_shards"}),
    "eval_report": (
        "evaluation",
        False,
        {
            "merged_model",
            "base_model",
            "diff_vector",
            "deduped_corpus",
            "joint_adapter",
            "loading_benchmark",
        },
    ),
}


def test_every_asset_has_its_group_partition_and_lineage() -> None:
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string(): (
            graph.get(key).group_name,
            graph.get(key).is_partitioned,
            {parent.to_user_string() for parent in graph.get(key).parent_keys},
        )
        for key in graph.get_all_asset_keys()
    }
    assert found == LINEAGE


def test_every_asset_is_described_owned_versioned_and_checked() -> None:
    graph = defs.resolve_asset_graph()
    checked = {check.asset_key for check in graph.asset_check_keys}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description and node.kinds and node.owners and node.code_version, key
        assert key in checked, key


def test_every_asset_is_tried_again_when_it_fails() -> None:
    policies = {
        assets.key.path[-1]: assets.op.retry_policy
        for assets in defs.resolve_asset_graph().assets_defs
        if assets.is_executable
    }
    assert set(policies) == set(LINEAGE)
    assert set(policies.values()) == {RETRIES}


def test_the_named_jobs_and_the_sensors_are_there() -> None:
    assert {job.name for job in defs.jobs or []} == {
        "whole_pipeline",
        "per_domain_chain",
        "merge_and_evaluate",
        "study_pruning",
    }
    assert [sensor.name for sensor in defs.sensors or []] == [
        "raw_data_sensor",
        "automation_conditions",
        "run_failure_alerts",
        "missed_retries",
    ]


def test_the_whole_pipeline_is_everything_but_the_study_which_has_its_own_job() -> None:
    selected = {
        job: {key.to_user_string() for key in defs.resolve_job_def(job).asset_layer.selected_asset_keys}
        for job in ("whole_pipeline", "study_pruning")
    }
    assert selected["study_pruning"] == {"pruning_study"}
    assert selected["whole_pipeline"] == set(LINEAGE) - {"pruning_study"}


def test_the_per_domain_chain_holds_every_partitioned_asset_and_what_lies_between_them() -> None:
    job = defs.resolve_job_def("per_domain_chain")
    selected = {key.to_user_string() for key in job.asset_layer.selected_asset_keys}
    assert selected == {name for name, (_, is_partitioned, _) in LINEAGE.items() if is_partitioned} | {
        "duplicate_clusters",
        "pruning_thresholds",
    }


def test_the_code_server_loads_in_five_cpu_seconds_without_a_warning_or_a_heavy_import() -> None:
    program = (
        "import sys, time, warnings\n"
        "warnings.simplefilter('error')\n"
        "import definitions\n"
        "definitions.defs.get_repository_def().load_all_definitions()\n"
        "heavy = {'torch', 'transformers', 'numba', 'peft', 'matplotlib'} & set(sys.modules)\n"
        "print(time.process_time(), sorted(heavy))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    seconds, heavy = result.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(seconds) <= CODE_SERVER_CPU_SECONDS


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ("kubernetes", "k8s"),  # Dagster's name of it
        ("in_process", "in_process"),
        ("slurm", "YUNMIN_EXECUTOR is 'slurm': choose multiprocess, in_process or kubernetes"),
    ],
)
def test_the_environment_chooses_where_steps_run(executor: str, said: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import definitions; print(definitions.defs.executor.name)"],
        cwd=REPOSITORY,
        env=os.environ | {"YUNMIN_EXECUTOR": executor},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in result.stdout + result.stderr


@pytest.mark.parametrize("command", [["check", "defs"], ["list", "defs", "--json"]])
def test_dg_accepts_the_definitions(command: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path)}
    result = subprocess.run(
        [str(BIN / "dg"), *command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert not re.search(r"\w*(Deprecation|Preview|Beta)\w*Warning", result.stdout + result.stderr)
    if "list" in command:
        assert all(f'"{name}"' in result.stdout for name in LINEAGE)


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it, and `module.name` for `from module import name`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = sorted((REPOSITORY / "yunmin_assets").rglob("*.py"))
WIRING = {"assets.py", "sensors.py", "jobs.py", "partitions.py"}


def test_pure_modules_import_neither_dagster_nor_resources() -> None:
    for path in MODULES:
        if path.name not in WIRING and path.parent.name != "automation":
            assert not {name.split(".")[0] for name in imports_of(path)} & {"dagster", "resources"}, path


def test_no_stage_imports_the_assets_of_another() -> None:
    for path in MODULES:
        assert not [name for name in imports_of(path) if re.match(r"yunmin_assets\.\w+\.assets", name)], path


def test_only_the_report_names_the_test_split() -> None:
    readers = set()
    for path in MODULES:
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        ]
        for call in calls:
            arguments = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant)]
            if getattr(call.func, "id", "") == "split_path" and "test" in arguments:
                readers.add(path.relative_to(REPOSITORY).as_posix())
    assert readers == {"yunmin_assets/evaluation/assets.py"}
