"""Deduplication over domains: the decisions of a run in memory, in any batches, resumed and incremental."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numba
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dedup.lake_files import Corpora, Corpus, Found, read_found
from tests.dedup.test_decisions import near_duplicates
from yunmin_assets.dedup import DedupConfig, deduplicate, key_files
from yunmin_assets.dedup.clusters import decide_over_domains
from yunmin_assets.dedup.decision_files import removed_without_survivor

DOMAINS = ("books", "law", "web")
STEMS = st.sampled_from(["가나다라마바사", "dcbaabcd dcba", "가나다라마바사아자차카타파하", ""])
TEXTS = st.builds("{}{}".format, STEMS, st.text("가나ab .", max_size=4))
DOCUMENTS = st.dictionaries(st.sampled_from([f"d{number}" for number in range(9)]), TEXTS, max_size=9)
CORPORA = st.fixed_dictionaries({}, optional={domain: DOCUMENTS for domain in DOMAINS})
SMALL = DedupConfig(ngram=2, bands=16, rows=1, threshold=0.6)
BUDGET_OF_ONE_MB = {"memory_budget_mb": 1}


def in_memory(corpus: Corpus, config: DedupConfig) -> Found:
    """What `deduplicate` decides about all documents at once."""
    rows = [
        (f"{domain}/{name}", text, domain)
        for domain, documents in corpus.items()
        for name, text in documents.items()
    ]
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(3)]
    decisions = deduplicate(pa.table(columns, ["id", "text", "domain"]), config).to_pylist()
    return {row["id"]: (row["survivor_id"], row["jaccard"]) for row in decisions}


def without_reasons(found: Found) -> dict:
    return {name: decision[:2] for name, decision in found.items()}


def spread(documents: dict[str, str]) -> Corpus:
    """Documents dealt out to three domains."""
    corpus: dict[str, dict[str, str]] = {domain: {} for domain in DOMAINS}
    for number, (name, text) in enumerate(documents.items()):
        corpus[DOMAINS[number % 3]][name] = text
    return corpus


@given(CORPORA.filter(bool))
@settings(max_examples=60, deadline=None)
def test_decisions_are_those_of_one_run_in_memory(
    tmp_path_factory: pytest.TempPathFactory, corpus: Corpus
) -> None:
    corpora = Corpora(tmp_path_factory.mktemp("corpora"), SMALL)
    assert without_reasons(corpora.decide(corpus)) == in_memory(corpus, SMALL)
    assert removed_without_survivor(corpora.out, list(corpus)) == []


@given(before=CORPORA.filter(bool), after=CORPORA.filter(bool))
@settings(max_examples=60, deadline=None)
def test_a_delivery_gives_what_a_full_run_gives(
    tmp_path_factory: pytest.TempPathFactory, before: Corpus, after: Corpus
) -> None:
    """Documents and domains come, go, change and move between any two corpora."""
    corpora = Corpora(tmp_path_factory.mktemp("corpora"), SMALL)
    corpora.decide(before)
    earlier = corpora.out
    incremental = corpora.decide(after, previous=earlier)
    files = sorted((corpora.out / "decisions").iterdir())
    full = Corpora(tmp_path_factory.mktemp("full"), SMALL)
    assert incremental == full.decide(after)
    for file in files:
        assert file.read_bytes() == (full.out / "decisions" / file.name).read_bytes()


@given(st.lists(CORPORA.filter(bool), min_size=3, max_size=5))
@settings(max_examples=20, deadline=None)
def test_deliveries_can_follow_one_another(
    tmp_path_factory: pytest.TempPathFactory, versions: list[Corpus]
) -> None:
    corpora = Corpora(tmp_path_factory.mktemp("corpora"), SMALL)
    previous = None
    for corpus in versions:
        found = corpora.decide(corpus, previous=previous)
        previous = corpora.out
        assert without_reasons(found) == in_memory(corpus, SMALL)


def test_a_delivery_is_compared_only_with_what_it_touches(tmp_path: Path) -> None:
    config = DedupConfig()
    corpus = {domain: dict(documents) for domain, documents in spread(near_duplicates(300)).items()}
    corpora = Corpora(tmp_path, config, documents_per_file=40)
    corpora.decide(corpus)
    assert corpora.counts.fresh == 300
    compared = corpora.counts.compared
    first = next(iter(corpus["law"].values()))
    corpus["web"] |= {"new": first + " 끝", "other": "아주 다른 글 하나가 새로 왔습니다"}
    found = corpora.decide(corpus, previous=corpora.out)
    assert corpora.counts.fresh == 2
    assert 2 <= corpora.counts.compared < compared / 10
    assert found["web/new"][0] != "web/new" or found["law/doc-0001"][0] == "web/new"
    assert without_reasons(found) == in_memory(corpus, config)


def test_other_options_decide_everything_again(tmp_path: Path) -> None:
    corpus = spread(near_duplicates(60))
    Corpora(tmp_path / "a", DedupConfig()).decide(corpus)
    corpora = Corpora(tmp_path / "b", DedupConfig(threshold=0.7))
    found = corpora.decide(corpus, previous=tmp_path / "a" / "1" / "out")
    assert corpora.counts.fresh == 60
    assert without_reasons(found) == in_memory(corpus, corpora.config)


@pytest.mark.parametrize("survivors", ["anchored", "linked"])
@pytest.mark.parametrize("verify", ["exact", "none"])
def test_neither_batches_nor_key_ranges_matter(
    tmp_path: Path, survivors: str, verify: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = spread(near_duplicates(2000))
    options = {"survivors": survivors, "verify": verify, "domain_priority": ("web",)}
    roomy = Corpora(tmp_path / "roomy", DedupConfig(**options), documents_per_file=500)
    tight = Corpora(tmp_path / "tight", DedupConfig(**options, **BUDGET_OF_ONE_MB), documents_per_file=500)
    expected = roomy.decide(corpus)
    monkeypatch.setattr(
        key_files, "BYTES_PER_SORTED_ROW", 4000
    )  # as if there were a hundred times as many rows
    assert len(key_files.key_ranges(2000, tight.config.memory_budget_bytes)) == 8
    assert tight.decide(corpus) == expected
    assert roomy.counts.batches == 1
    assert tight.counts.batches > 5
    assert without_reasons(roomy.decide_again()) == in_memory(corpus, roomy.config)


def test_an_attempt_with_another_budget_starts_over(tmp_path: Path) -> None:
    corpora = Corpora(tmp_path, DedupConfig(**BUDGET_OF_ONE_MB), documents_per_file=500)
    expected = corpora.decide(spread(near_duplicates(1000)))
    corpora.config = DedupConfig(memory_budget_mb=3)
    batches = corpora.counts.batches
    assert corpora.decide_again() == expected
    assert 1 <= corpora.counts.batches < batches


def test_a_component_larger_than_the_budget_is_decided_all_the_same(tmp_path: Path) -> None:
    body = " ".join(f"낱말{number:03d}" for number in range(200))
    corpus = {"web": {f"d{number:03d}": f"{body} {number}" for number in range(300)}}
    config = DedupConfig(**BUDGET_OF_ONE_MB)
    corpora = Corpora(tmp_path, config, documents_per_file=100)
    assert without_reasons(corpora.decide(corpus)) == in_memory(corpus, config)
    assert (tmp_path / "1" / "deciding" / "shingles.uint64.tmp").stat().st_size > 1_000_000


def test_the_order_of_files_and_documents_does_not_matter(tmp_path: Path) -> None:
    corpus = spread(near_duplicates(200))
    expected = Corpora(tmp_path / "first", DedupConfig(), documents_per_file=20).decide(corpus)
    for seed in range(3):
        shuffled = {domain: list(documents.items()) for domain, documents in reversed(corpus.items())}
        for documents in shuffled.values():
            random.Random(seed).shuffle(documents)
        again = Corpora(tmp_path / str(seed), DedupConfig(), documents_per_file=17)
        assert again.decide({domain: dict(documents) for domain, documents in shuffled.items()}) == expected


def test_threads_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = spread({name: text * 20 for name, text in near_duplicates(1000).items()})
    written = []
    for threads in (1, 2, 4):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        corpora = Corpora(tmp_path / str(threads), DedupConfig(), documents_per_file=100)
        corpora.decide(corpus)
        files = [
            *corpora.out.rglob("*.parquet"),
            *(tmp_path / str(threads) / "1" / "signatures").rglob("*.parquet"),
        ]
        written.append({file.relative_to(tmp_path / str(threads)): file.read_bytes() for file in files})
    assert written[0] == written[1] == written[2]
    assert len(written[0]) > 20 * 3


def test_reasons_tell_exact_from_near(tmp_path: Path) -> None:
    body = "가나다라마바사아자차카타파하 거너더러머버서어저처커터퍼허 " * 3
    corpus = {
        "law": {"a": body + "끝.", "b": body + "끝"},
        "web": {"c": body + "끝!", "d": body + "끗!", "e": "다른 글"},
    }
    found = Corpora(tmp_path, DedupConfig()).decide(corpus)
    assert {name: decision[2] for name, decision in found.items()} == {
        "law/a": None,
        "law/b": "exact duplicate",
        "web/c": "exact duplicate",
        "web/d": "near-duplicate",
        "web/e": None,
    }


def test_signatures_of_other_documents_are_refused(tmp_path: Path) -> None:
    corpora = Corpora(tmp_path, DedupConfig())
    corpora.decide({"law": {"a": "글 하나", "b": "글 둘", "c": "글 셋", "d": "글 넷"}})
    (corpora.clean["law"] / "documents-00001.parquet").unlink()
    with pytest.raises(
        ValueError, match=r"law: .* was not made from these documents: compute the signatures again"
    ):
        corpora.decide_again()


def test_a_budget_below_what_telling_documents_apart_takes_is_refused(tmp_path: Path) -> None:
    corpus = {"web": {f"d{number}": f"글 {number}" for number in range(40_000)}}
    corpora = Corpora(tmp_path, DedupConfig(bands=1, rows=1, **BUDGET_OF_ONE_MB), documents_per_file=40_000)
    with pytest.raises(ValueError, match=r"40,000 documents need 5 MB .* dedup\.memory_budget_mb: 1"):
        corpora.decide(corpus)


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    corpora = Corpora(tmp_path, DedupConfig(**BUDGET_OF_ONE_MB), documents_per_file=500)
    expected = corpora.decide(spread(near_duplicates(1000)))
    workspace = corpora.out.parent / "deciding"
    (workspace / "removed-00001.parquet").unlink()  # as if killed while it was written
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()}
    assert corpora.decide_again() == expected
    after = {path: path.stat().st_mtime_ns for path in before}
    assert len(before) > 5
    assert after == before


def test_a_workspace_of_other_documents_is_not_used(tmp_path: Path) -> None:
    first, second = ({"web": {"a": f"{word} 하나", "b": f"{word} 하나!", "c": "셋"}} for word in ("글", "말"))
    corpora = Corpora(tmp_path, DedupConfig())
    corpora.decide(first)
    workspace = corpora.out.parent / "deciding"
    other = Corpora(tmp_path / "other", DedupConfig())
    second["web"]["b"] = "다른 글"
    other.decide(second)
    decide_over_domains(other.clean, other.signed, tmp_path / "out", other.config, workspace=workspace)
    assert read_found(tmp_path / "out") == read_found(other.out)


def test_a_damaged_earlier_run_is_named_and_not_used(tmp_path: Path) -> None:
    corpora = Corpora(tmp_path, DedupConfig())
    corpus = {"web": {"a": "글 하나", "b": "글 하나!", "c": "셋"}}
    expected = corpora.decide(corpus)
    path = corpora.out / "components" / "web.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    lines: list[str] = []
    decide_over_domains(
        corpora.clean, corpora.signed, tmp_path / "out", corpora.config,
        workspace=tmp_path / "work", previous=corpora.out, log=lines.append,
    )  # fmt: skip
    assert read_found(tmp_path / "out") == expected
    assert any(line.startswith(f"deciding everything again: {path} cannot be read") for line in lines)


def test_signatures_of_as_many_other_documents_are_refused(tmp_path: Path) -> None:
    first = Corpora(tmp_path / "first", DedupConfig())
    first.decide({"web": {"a": "글 하나", "b": "글 하나!"}})
    second = Corpora(tmp_path / "second", DedupConfig())
    second.decide({"web": {"c": "말 하나", "d": "말 둘"}})
    with pytest.raises(ValueError, match=r"web: .* was not made from these documents"):
        decide_over_domains(
            second.clean, first.signed, tmp_path / "out", first.config, workspace=tmp_path / "work"
        )


def kill_when_there_is(path: Path, command: list[str]) -> bool:
    """Run a command and kill it as soon as it has written `path`; whether it was still running then."""
    process = subprocess.Popen(command)
    while process.poll() is None and not path.exists():
        time.sleep(0.001)
    process.kill()
    return process.wait() == -signal.SIGKILL


def test_killed_at_any_moment_and_restarted_it_decides_the_same(tmp_path: Path) -> None:
    corpus = spread(near_duplicates(3000))
    config = DedupConfig(**BUDGET_OF_ONE_MB)
    corpora = Corpora(tmp_path, config, documents_per_file=500)
    expected = corpora.decide(corpus)
    root = tmp_path / "1"
    command = [sys.executable, "-m", "tests.dedup.killed_clusters", str(root), str(tmp_path / "again")]
    for finished in ("components.npz", "batches", "removed-00000.parquet", "removed-00003.parquet"):
        assert kill_when_there_is(tmp_path / "again" / "work" / finished, command)
    subprocess.run(command, check=True)
    assert read_found(tmp_path / "again" / "out") == expected
    for file in (root / "out").rglob("*.parquet"):
        assert file.read_bytes() == (tmp_path / "again" / "out" / file.relative_to(root / "out")).read_bytes()
