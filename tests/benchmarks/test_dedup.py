"""The deduplication benchmark reports right figures, and its copies of a corpus are as alike as the corpus."""

import importlib.util
import json
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.dedup import comparison_table, judge, main, shingles, targets_table
from benchmarks.dedup_peers import byte_shingles, normalized, shingle_hashes, text_shingles
from benchmarks.dedup_scale import (
    PHASES,
    decision_files,
    measure_scales,
    run_phase,
    salt,
    salted,
    survivors_by_copy,
    write_copy,
)
from benchmarks.measure import machine_facts
from tests.dedup import oracle

NGRAM = 13
SHINGLES = 100
ALONE = 40
ADDED = {"near": 10, "hard": 20, "far": 40}
"""Characters added to a text of 100 shingles: Jaccard 100/110 and 100/120 are above 0.8, 100/140 is not."""
TEXTS_WITH_VARIANTS = 6
PAIRS = {"copy": 1.0, "near": 100 / 110, "hard": 100 / 120}


def hangul(random: np.random.Generator, count: int) -> str:
    """Different syllables, so that every shingle occurs once."""
    return "".join(map(chr, random.choice(np.arange(0xAC00, 0xD7A4), count, replace=False)))


def true_pairs(texts: dict[str, str]) -> list[tuple[str, str, float]]:
    """All pairs at or above a Jaccard of 0.5, by brute force."""
    sets = {name: oracle.shingle_set(text, NGRAM) for name, text in texts.items()}
    names = list(texts)
    pairs = [
        (first, second, oracle.jaccard(sets[first], sets[second]))
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    ]
    return [pair for pair in pairs if pair[2] >= 0.5]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 synthetic documents: 40 alone, and 6 with an exact copy, a near, a hard and a far relative."""
    random = np.random.default_rng(0)
    size = SHINGLES + NGRAM - 1
    texts = {f"alone-{number}": hangul(random, size) for number in range(ALONE)}
    for number in range(TEXTS_WITH_VARIANTS):
        family = hangul(random, size + sum(ADDED.values()))
        texts[f"text-{number}"] = texts[f"copy-{number}"] = family[:size]
        added = size
        for name, characters in ADDED.items():
            texts[f"{name}-{number}"] = family[:size] + family[added : added + characters]
            added += characters
    folder = tmp_path_factory.mktemp("corpus")
    domains = ["even" if number % 2 == 0 else "odd" for number in range(len(texts))]
    table = pa.table({"id": list(texts), "text": list(texts.values()), "domain": domains})
    pq.write_table(table, folder / "corpus.parquet")
    a, b, jaccards = zip(*true_pairs(texts), strict=True)
    pq.write_table(pa.table({"a": a, "b": b, "jaccard": jaccards}), folder / "truth.parquet")
    return folder


def test_ours_is_reported_with_the_known_figures(corpus: Path, tmp_path: Path) -> None:
    main(["--corpus", str(corpus), "--tools", "ours", "--repeat", "1", "--json", str(tmp_path / "lines")])
    (report,) = map(json.loads, (tmp_path / "lines").read_text().splitlines())
    families = TEXTS_WITH_VARIANTS
    assert report["documents"] == ALONE + 5 * families
    assert report["megabytes"] * 1e6 == sum(
        len(text.encode()) for text in pq.read_table(corpus / "corpus.parquet")["text"].to_pylist()
    )
    # text and copy with each other, with near and with hard; near with hard is 100/130
    assert report["true_pairs"] == 5 * families
    assert report["hard_pairs"] == 2 * families
    assert report["pair_recall"] == report["pair_recall_hard"] == 1.0
    assert report["residual_pairs"] == report["false_removals"] == report["far_from_survivor"] == 0
    # hard is longer than near and stays, near stays too, text and copy go
    assert report["removed"] == 2 * families
    assert report["cpu_s"] > 0
    assert report["documents_per_cpu_s"] == report["documents"] / report["cpu_s"]
    assert report["peak_rss_mb"] >= report["rss_before_mb"] > 0


def test_what_a_tool_got_wrong_is_counted(corpus: Path) -> None:
    ids = pq.read_table(corpus / "corpus.parquet")["id"].to_pylist()
    gone = {
        "copy-0": "text-0",  # right
        "hard-0": "text-0",  # right
        "text-1": "far-1",  # has true partners, but this one has 100/140
        "alone-0": "alone-1",  # nobody resembles it
    }
    decisions = pa.table(
        {
            "id": ids,
            "kept": [name not in gone for name in ids],
            "survivor_id": [gone.get(name, name) for name in ids],
        }
    )
    judged = judge(decisions, corpus, 0.8)
    assert judged["removed"] == len(gone)
    assert judged["false_removals"] == 1
    assert judged["far_from_survivor"] == 2
    # of five pairs each, family 0 keeps text–near; family 1 keeps copy–near and copy–hard
    assert judged["residual_pairs"] == 1 + 2 + 5 * (TEXTS_WITH_VARIANTS - 2)


def test_an_absent_peer_is_named_with_the_cure(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("daft"):
        pytest.skip("Daft is installed: this test is about its absence")
    main(["--corpus", str(corpus), "--tools", "daft", "--repeat", "1", "--peer-python", sys.executable])
    printed = capsys.readouterr().out
    assert "absent, because daft is not installed" in printed
    assert "pip install -r benchmarks/peers.txt" in printed


def test_targets_say_what_was_not_reached() -> None:
    quality = {"pair_recall": 1.0, "pair_recall_hard": 0.99, "residual_pairs": 1, "true_pairs": 20_000}
    quality |= {"removed": 10, "false_removals": 0, "far_from_survivor": 0}
    ours = {"tool": "ours", "cpu_s": 1.0, "megabytes_per_cpu_s": 79.0, **quality}
    lines = targets_table([ours, {"tool": "daft", "cpu_s": 3.0}]).splitlines()
    verdicts = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in lines[2:]}
    assert verdicts["MB per CPU-s, end to end"] == "NOT REACHED"
    assert verdicts["pair recall below .85"] == "NOT REACHED"
    assert verdicts["pair recall"] == verdicts["true pairs left per 10,000"] == "reached"
    assert verdicts["times as fast as daft"] == "reached"


@pytest.mark.parametrize(
    "text", ["", "짧은 글", "Hello, World! " * 3, "가나다 ABC\u3000\t。" + "라마바사" * 10]
)
def test_peers_see_the_same_shingles(text: str) -> None:
    expected = oracle.shingle_set(text, NGRAM)
    seen = normalized(text)
    assert seen == oracle.normalized(text)
    assert shingles(text) == expected
    if seen:
        assert set(text_shingles(seen)) == expected
        assert {shingle.decode("utf-32-le") for shingle in byte_shingles(seen)} == expected
        assert len(set(shingle_hashes(seen).tolist())) == len(expected)


def test_a_copy_exchanges_characters_one_to_one() -> None:
    assert (salt(0) == np.arange(salt(0).size)).all()
    becomes = salt(3)
    assert (np.sort(becomes) == np.arange(becomes.size)).all()
    assert (becomes == salt(3)).all()
    assert (becomes != salt(4)).any()
    assert all(chr(becomes[ord(c.upper())]) == chr(becomes[ord(c)]).upper() for c in "abcxyz")


def test_a_copy_keeps_jaccard_length_and_size() -> None:
    random = np.random.default_rng(1)
    decomposed = "가\u11a8"
    first = "Öffnen Sie, bitte: 2024년 3월 " + hangul(random, 60) + " THE End. 漢字 ㅋㅋ " + decomposed
    second = first[:50] + "달라진 부분" + first[55:]
    becomes = salt(7)
    copies = salted(first, becomes), salted(second, becomes)
    for text, copy in zip((first, second), copies, strict=True):
        assert copy != text
        assert len(oracle.normalized(copy)) == len(oracle.normalized(text))
        assert len(copy.encode()) == len(unicodedata.normalize("NFC", text).encode())
    sets = [oracle.shingle_set(text, NGRAM) for text in (first, second, *copies)]
    assert 0 < oracle.jaccard(sets[0], sets[1]) < 1
    assert oracle.jaccard(sets[0], sets[1]) == oracle.jaccard(sets[2], sets[3])
    assert not sets[0] & sets[2]


def test_an_accent_that_would_compose_is_refused() -> None:
    becomes = np.arange(0x110000, dtype=np.uint32)
    becomes[[ord("e"), ord("q")]] = ord("q"), ord("e")
    with pytest.raises(ValueError, match="composes an accent in 'q"):
        salted("q\u0301", becomes)


def test_every_copy_is_decided_like_the_corpus(corpus: Path, tmp_path: Path) -> None:
    documents = pq.read_table(corpus / "corpus.parquet")
    for copy in range(2):
        write_copy(documents, tmp_path / "clean", copy)
    for phase in PHASES:
        run_phase(phase, tmp_path / "clean", tmp_path, 0.8, None)
    first, second = survivors_by_copy(decision_files(tmp_path), documents["id"], copies=2)
    assert (first != np.arange(documents.num_rows)).sum() == 2 * TEXTS_WITH_VARIANTS
    assert (second - documents.num_rows == first).all()


def test_scales_are_measured_in_processes_of_their_own(corpus: Path) -> None:
    (report,) = measure_scales(corpus, [1], 0.8, None, machine_facts())
    assert report["removed_per_copy"] == [2 * TEXTS_WITH_VARIANTS]
    assert report["first_copy_as_alone"]
    for phase in PHASES:
        assert report[phase]["cpu_s"] > 0
        assert report[phase]["peak_rss_mb"] >= report[phase]["peak_anonymous_mb"] > 0


def test_tables_are_markdown(corpus: Path) -> None:
    absent = {"tool": "daft", "absent": "daft", "install": "pip install daft"}
    table = comparison_table([absent]).splitlines()
    assert table[1].startswith("| ---")
    assert table[-1].startswith("- `daft`: absent")
