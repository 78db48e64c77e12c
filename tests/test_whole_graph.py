"""The whole graph through `python -m yunmin_assets.automation.local_run`, as `make demo` runs it, on a small corpus."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from resources.lake import Lake
from resources.lake_cli import current_snapshots
from tests.conftest import REPOSITORY
from tests.test_backfill import DOMAINS, TINY
from yunmin_assets.corpus.sample import write_sample_corpus

RUN_SECONDS = 600.0
"""The longest that a run may take; alone on two cores it takes 45."""


class LocalRun:
    """One home folder, in which the command may be run again and again."""

    def __init__(self, home: Path, raw: Path) -> None:
        self.home, self.raw = home, raw
        home.mkdir(exist_ok=True)
        self.config = home / "pipeline.yaml"
        self.config.write_text(yaml.safe_dump(TINY))
        self.lake = Lake(uri=str(home / "lake"))

    def copy(self, home: Path, raw: Path) -> "LocalRun":
        """The same lake and history somewhere else, and other raw files."""
        shutil.copytree(self.home, home)
        return LocalRun(home, raw)

    def start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "yunmin_assets.automation.local_run"]
        command += ["--raw", str(self.raw), "--home", str(self.home)]
        environment = os.environ | {"YUNMIN_CONFIG": str(self.config)}
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self) -> tuple[int, str]:
        process = self.start()
        output, _ = process.communicate(timeout=RUN_SECONDS)
        return process.returncode, output

    def kill_after(self, line: str) -> None:
        process = self.start()
        assert process.stdout is not None
        for printed in process.stdout:
            if line in printed:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL, f"the run ended before it printed {line!r}"

    def hashes(self) -> dict[tuple[str, str | None], str]:
        return {(s.manifest.asset, s.manifest.domain): s.content_hash for s in current_snapshots(self.lake)}

    def reproducible_hashes(self) -> dict[tuple[str, str | None], str]:
        """Without those of assets that hold times, costs or speeds of their own run."""
        measured = ("loading_benchmark", "eval_report")
        return {key: value for key, value in self.hashes().items() if key[0] not in measured}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    write_sample_corpus(folder, documents_per_domain=120)
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith(tuple(DOMAINS)):
            path.unlink()
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, raw: Path) -> tuple[LocalRun, str]:
    local_run = LocalRun(tmp_path_factory.mktemp("run") / "home", raw)
    status, output = local_run.run()
    assert status == 0, output
    return local_run, output


def test_one_command_publishes_every_asset_and_ends_with_a_table(done: tuple[LocalRun, str]) -> None:
    local_run, output = done
    assets = {asset for asset, _ in local_run.hashes()}
    assert len(assets) == 19
    assert "SYNTHETIC" in output
    assert re.search(r"all domains\s+\d+ \(", output)
    assert re.search(r"\d+ of \d+ found, recall", output)
    report = Path(re.search(r"^report +(\S+)$", output, re.MULTILINE)[1])  # type: ignore[index]
    assert "korean_textbook" in report.read_text(encoding="utf-8")
    assert all(snapshot.verify() == [] for snapshot in current_snapshots(local_run.lake))


def test_the_planted_duplicates_were_found_and_nothing_else_was_removed(
    done: tuple[LocalRun, str],
) -> None:
    local_run, _ = done
    found = local_run.lake.current("duplicate_clusters").manifest.summary["metadata"]
    assert found["true_pairs"] > 20
    assert found["pair_recall"] >= 0.99
    assert found["false_removals"] == 0


def test_every_line_is_accounted_for_along_the_way(done: tuple[LocalRun, str]) -> None:
    local_run, _ = done
    for domain in DOMAINS:
        clean, deduped, pruned, shards = (
            local_run.lake.current(name, domain).manifest.summary["metadata"]
            for name in ("clean_corpus", "deduped_corpus", "pruned_corpus", "parquet_shards")
        )
        assert clean["lines"] == clean["documents"] + clean["removed_documents"] + clean["rejected_lines"]
        assert (
            clean["documents"]
            == deduped["documents_in"]
            == deduped["documents"] + deduped["removed_documents"]
        )
        held_out = deduped["validation_documents"] + deduped["test_documents"]
        assert deduped["documents"] == deduped["train_documents"] + held_out
        assert deduped["train_documents"] == pruned["documents"] + pruned["removed_documents"]
        assert pruned["documents"] == shards["train_documents"]


def test_the_merged_model_loads_with_transformers_and_speaks(done: tuple[LocalRun, str]) -> None:
    local_run, _ = done
    folder = local_run.lake.current("merged_model").local / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = model.generate(**tokenizer("대한민국", return_tensors="pt"), max_new_tokens=4)
    assert ids.shape[1] > 4


def test_the_report_adds_up_what_every_stage_recorded(done: tuple[LocalRun, str]) -> None:
    local_run, _ = done
    report = json.loads((local_run.lake.current("eval_report").local / "report.json").read_bytes())
    costs = {row["stage"]: row for row in report["cost"]}
    assert len(costs) == 17
    adapters = [local_run.lake.current("lora_adapter", domain).manifest.cost for domain in DOMAINS]
    assert costs["lora_adapter"]["tokens"] == sum(cost.tokens for cost in adapters) > 0
    assert {cell["model"] for cell in report["perplexity"]} == {"base", "mini", "merged", "joint"}
    expected = {row["claim"]: row["measurement"] for row in report["expectations"]}
    for claim in ("Faster loading", "Less memory"):
        assert "JSONL" in expected[claim]["baseline"]


def test_a_second_run_publishes_nothing(done: tuple[LocalRun, str]) -> None:
    local_run, _ = done
    before = {s.folder.name for s in current_snapshots(local_run.lake)}
    status, output = local_run.run()
    assert status == 0
    assert {s.folder.name for s in current_snapshots(local_run.lake)} == before
    assert "✓" not in output
    assert len(re.findall(r"^  = \S+ +unchanged$", output, re.MULTILINE)) == len(before)


@pytest.mark.parametrize(
    ("job", "partition", "assets"),
    [
        ("whole_pipeline", "web_data", 19),
        ("per_domain_chain", "web_data", 11),
        ("merge_and_evaluate", None, 5),
    ],
)
def test_the_named_jobs_run_and_find_nothing_to_do(
    done: tuple[LocalRun, str], job: str, partition: str | None, assets: int
) -> None:
    local_run, _ = done
    before = {s.folder.name for s in current_snapshots(local_run.lake)}
    command = [str(Path(sys.executable).with_name("dg")), "launch", "--job", job]
    command += ["--partition", partition] if partition else []
    environment = os.environ | {
        "YUNMIN_CONFIG": str(local_run.config),
        "YUNMIN_RAW": str(local_run.raw),
        "YUNMIN_LAKE": local_run.lake.uri,
        "YUNMIN_EXECUTOR": "in_process",
        "DAGSTER_HOME": str(local_run.home / "dagster"),
    }
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert "RUN_SUCCESS" in result.stderr + result.stdout
    assert (result.stderr + result.stdout).count(" - ASSET_MATERIALIZATION - ") == assets
    assert {s.folder.name for s in current_snapshots(local_run.lake)} == before


def test_a_run_killed_again_and_again_ends_with_the_same_bytes_and_only_its_report_reads_the_test_split(
    done: tuple[LocalRun, str], tmp_path: Path
) -> None:
    finished, _ = done
    local_run = LocalRun(tmp_path / "home", finished.raw)
    local_run.kill_after(
        "✓ deduped_corpus[web_data]"
    )  # the last domain of the last stage that writes the splits
    splits = [local_run.lake.current("deduped_corpus", domain).local / "test.parquet" for domain in DOMAINS]
    kept = [split.read_bytes() for split in splits]
    for split in splits:
        split.write_bytes(b"unreadable")
    for line in ("✓ reference_model", "✓ lora_adapter[papers_data]"):
        local_run.kill_after(line)
    status, output = local_run.run()
    assert status == 1
    assert "✗ eval_report" in output
    assert "✗" not in output.replace("✗ eval_report", "")

    for split, content in zip(splits, kept, strict=True):
        split.write_bytes(content)
    status, output = local_run.run()
    assert status == 0, output
    assert local_run.reproducible_hashes() == finished.reproducible_hashes()


def test_broken_domains_are_named_and_the_others_go_on(done: tuple[LocalRun, str], tmp_path: Path) -> None:
    finished, _ = done
    raw = tmp_path / "raw"
    write_sample_corpus(tmp_path / "other", seed=1, documents_per_domain=120)
    raw.mkdir()
    (raw / "korean_textbook.jsonl.zst").symlink_to(finished.raw / "korean_textbook.jsonl.zst")
    (raw / "papers_data.jsonl.zst").symlink_to(tmp_path / "other" / "papers_data.jsonl.zst")  # delivered anew
    (raw / "web_data.jsonl").write_text("{\n" * 100)  # was good before
    (raw / "broken.jsonl").write_text("{\n" * 100)  # never was
    (raw / "법률.jsonl").write_text("{}")
    local_run = finished.copy(tmp_path / "home", raw)
    old_report = local_run.lake.current("eval_report").folder.name
    status, output = local_run.run()
    assert status == 1
    assert "✗ '법률' cannot be a domain" in output
    for domain in ("broken", "web_data"):
        assert f"✗ clean_corpus[{domain}]: not_empty: 0 of 100 lines are documents" in output
        assert f"{domain}.jsonl, line 1: broken JSON" in output
    assert "failed: 법률, broken, web_data" in output
    assert local_run.lake.current("eval_report").folder.name != old_report
    assert merged_domains(local_run) == ["korean_textbook", "papers_data"]


def merged_domains(local_run: LocalRun) -> list[str]:
    metadata = local_run.lake.current("merged_model").manifest.summary["metadata"]
    return sorted(name.removeprefix("weight ") for name in metadata if name.startswith("weight "))
