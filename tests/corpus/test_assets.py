"""Deliveries as they come: what is broken is counted or refused by name, and other domains go on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from dagster import DagsterInstance, ExecuteInProcessResult, materialize

from resources.lake import Lake
from resources.settings import Settings
from yunmin_assets.corpus.assets import clean_corpus, raw_corpus

GOOD = [
    json.dumps({"text": f"{number}번째 문서입니다. " * 12}, ensure_ascii=False).encode()
    for number in range(200)
]


class Corpus:
    """The corpus stage over a raw folder, run as Dagster runs it."""

    def __init__(self, home: Path, instance: DagsterInstance) -> None:
        self.raw, self.instance = home / "raw", instance
        self.raw.mkdir()
        self.lake, self.config = Lake(uri=str(home / "lake")), home / "pipeline.yaml"
        self.settings = Settings(path=str(self.config))
        self.configure()

    def configure(self, **options: object) -> None:
        values = {"raw": str(self.raw), "lake": self.lake.uri, "corpus": options}
        self.config.write_text(yaml.safe_dump(values))

    def deliver(self, name: str, content: bytes | list[bytes]) -> None:
        path = self.raw / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\n".join(content) if isinstance(content, list) else content)

    def materialize(self, domain: str) -> ExecuteInProcessResult:
        self.instance.add_dynamic_partitions("domain", [domain])
        return materialize(
            [raw_corpus, clean_corpus],
            partition_key=domain,
            resources={"lake": self.lake, "settings": self.settings},
            instance=self.instance,
            raise_on_error=False,
        )

    def rejects(self, domain: str) -> list[tuple[str, int, str]]:
        rows = pq.read_table(self.lake.current("clean_corpus", domain).local / "rejects.parquet").to_pylist()
        return [(row["file"], row["line"], row["reason"]) for row in rows]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Corpus]:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)
    with DagsterInstance.ephemeral() as instance:
        yield Corpus(tmp_path, instance)


def failure(result: ExecuteInProcessResult) -> str:
    assert not result.success
    data = next(event.step_failure_data for event in result.all_events if event.is_step_failure)
    parts = [data.error.message, data.error.cause.message if data.error.cause else ""]
    return " ".join([*parts, str(data.user_failure_data.description) if data.user_failure_data else ""])


def test_a_few_unreadable_lines_are_counted_with_file_line_and_reason(corpus: Corpus) -> None:
    lines = list(GOOD)
    lines[3], lines[7] = b'{"text": "broken', b'{"text": "\xff"}'
    corpus.deliver("law/a.jsonl", lines)
    assert corpus.materialize("law").success
    assert corpus.rejects("law") == [
        ("law/a.jsonl", 4, "broken JSON: unexpected end of data at character 16"),
        ("law/a.jsonl", 8, "invalid UTF-8 at byte 10"),
    ]
    metadata = corpus.lake.current("clean_corpus", "law").manifest.summary["metadata"]
    assert (metadata["lines"], metadata["documents"], metadata["rejected_lines"]) == (200, 198, 2)


@pytest.mark.parametrize(
    ("bad_line", "reason"),
    [
        (b'{"text": "broken', "law.jsonl, line 1: broken JSON"),
        (b'{"title": "no text"}', "law.jsonl, line 1: missing field: text"),
        (b'{"text": "\xff"}', "law.jsonl, line 1: invalid UTF-8 at byte 10"),
    ],
)
def test_too_many_unreadable_lines_fail_the_domain_and_name_the_first(
    corpus: Corpus, bad_line: bytes, reason: str
) -> None:
    corpus.deliver("law.jsonl", [bad_line] * 5 + GOOD)
    message = failure(corpus.materialize("law"))
    assert "rejects_within_limit: 2.44% of the lines were rejected, 1.00% are allowed" in message
    assert reason in message
    assert corpus.lake.find("clean_corpus", "law") is None


def test_an_empty_file_beside_a_good_one_is_a_warning(corpus: Corpus) -> None:
    corpus.deliver("law/a.jsonl", GOOD)
    corpus.deliver("law/b.jsonl", b"")
    result = corpus.materialize("law")
    assert result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["no_empty_object"].passed
    assert "law/b.jsonl" in str(checks["no_empty_object"].description)


def test_a_domain_of_empty_files_fails_by_name(corpus: Corpus) -> None:
    corpus.deliver("law.jsonl", b"\n\n")
    assert "not_empty: 0 lines in 1 objects" in failure(corpus.materialize("law"))


def test_a_domain_without_files_says_where_to_drop_them(corpus: Corpus) -> None:
    (corpus.raw / "law").mkdir()
    assert "no raw objects for domain 'law': drop" in failure(corpus.materialize("law"))


def test_a_domain_whose_documents_are_all_too_short_fails_by_name(corpus: Corpus) -> None:
    corpus.deliver("law.jsonl", [b'{"text": "short"}'] * 3)
    assert "not_empty: 0 of 3 lines are documents" in failure(corpus.materialize("law"))


def test_a_truncated_zst_fails_its_domain_and_no_other(corpus: Corpus) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(b"\n".join(GOOD))
    compressed = sink.getvalue().to_pybytes()
    corpus.deliver("law.jsonl.zst", compressed[:-9])
    corpus.deliver("tech.jsonl.zst", compressed)
    message = failure(corpus.materialize("law"))
    assert "law.jsonl.zst, after line" in message
    assert "the compressed data is truncated or damaged" in message
    assert corpus.materialize("tech").success
    assert corpus.lake.domains("raw_corpus") == ["tech"]


def test_a_bad_delivery_leaves_the_last_good_one_current(corpus: Corpus) -> None:
    corpus.deliver("law.jsonl", GOOD)
    assert corpus.materialize("law").success
    good = corpus.lake.current("clean_corpus", "law").manifest
    corpus.deliver("law.jsonl", GOOD[:10] + [b"{"] * 10)
    assert not corpus.materialize("law").success
    assert corpus.lake.current("clean_corpus", "law").manifest == good


def test_an_object_that_changes_between_the_two_assets_is_refused(corpus: Corpus) -> None:
    corpus.deliver("law.jsonl", GOOD)
    assert corpus.materialize("law").success
    corpus.deliver("law.jsonl", GOOD[1:])
    resources = {"lake": corpus.lake, "settings": corpus.settings}
    corpus.configure(min_characters=5)
    result = materialize(
        [raw_corpus, clean_corpus],
        selection=["clean_corpus"],
        partition_key="law",
        resources=resources,
        instance=corpus.instance,
        raise_on_error=False,
    )
    assert "law.jsonl changed since raw_corpus saw it: materialize raw_corpus again" in failure(result)
