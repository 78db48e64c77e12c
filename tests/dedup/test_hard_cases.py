"""Inputs that make a careless implementation run for hours or out of memory."""

import random
import resource
import time

import pyarrow as pa

from yunmin_assets.dedup import DedupConfig, deduplicate


def test_a_hundred_thousand_identical_documents_take_seconds() -> None:
    count = 100_000
    table = pa.table(
        {"id": [f"d{number:06d}" for number in range(count)], "text": ["같은 공지 사항입니다."] * count}
    )
    started = time.process_time()
    for config in (DedupConfig(), DedupConfig.slimpajama()):
        decisions = deduplicate(table, config)
        assert decisions["kept"].to_pylist().count(True) == 1
        assert set(decisions["survivor_id"].to_pylist()) == {"d000000"}
    assert time.process_time() - started < 20


def test_a_bucket_of_twenty_thousand_near_identical_documents_is_linear() -> None:
    """All pairs would be 200 million comparisons of 300 shingles each."""
    count = 20_000
    chance = random.Random(1)
    body = "".join(chr(chance.randrange(0xAC00, 0xD7A4)) for _ in range(300))
    texts = [f"{body} {number:05d}" for number in range(count)]
    table = pa.table({"id": [f"d{number:05d}" for number in range(count)], "text": texts})
    started = time.process_time()
    for survivors in ("anchored", "linked"):
        decisions = deduplicate(table, DedupConfig(survivors=survivors))
        assert set(decisions["survivor_id"].to_pylist()) == {"d00000"}
        assert min(decisions["jaccard"].to_pylist()) > 0.9
    assert time.process_time() - started < 30


def test_one_huge_document_costs_its_own_size_only() -> None:
    """50 MB beside 2,000 short documents: a table per document of the largest size would be terabytes."""
    chance = random.Random(0)
    paragraph = "".join(chr(chance.randrange(0xAC00, 0xD7A4)) for _ in range(1000))
    huge = "".join(f"{paragraph}{number}" for number in range(16_600))
    assert len(huge.encode()) > 49e6
    short = [f"짧은 글 {chance.random()}" for _ in range(2000)]
    texts = [huge, huge + " 끝", *short]
    table = pa.table({"id": [f"d{number:04d}" for number in range(len(texts))], "text": texts})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    decisions = deduplicate(table, DedupConfig())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert decisions["kept"].to_pylist()[:2] == [False, True]
    assert 0.99 < decisions["jaccard"][0].as_py() < 1
    assert grown < 4 * 2**20  # KiB: 4 GiB
