"""Who stays: compared with all pairs in plain Python, in any order and on any number of threads."""

import random
from itertools import combinations

import datasketch
import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.dedup.oracle import Decision, anchored, by_length, jaccard, linked, normalized, shingle_set
from yunmin_assets.dedup import (
    DECISION_SCHEMA,
    DedupConfig,
    compute_signatures,
    decide,
    deduplicate,
    shingle_hash,
    text_shingles,
)

NGRAM = 2
EVERY_PAIR = {"ngram": NGRAM, "bands": 64, "rows": 1}
"""Bands of one row: a pair of Jaccard 0.5 stays unseen with probability 2⁻⁶⁴."""
THRESHOLDS = st.sampled_from([0.5, 0.6, 2 / 3, 0.75, 0.8, 1.0])
STEMS = st.sampled_from(
    ["", "가", "abcabd", "가나다라마바사", "dcbaabcd dcba", "가나다라마바사아자차카타파하"]
)
TEXTS = st.lists(st.builds("{}{}".format, STEMS, st.text("가나ab .", max_size=6)), min_size=1, max_size=12)


def table_of(documents: dict[str, str], **columns: list) -> pa.Table:
    return pa.table({"id": list(documents), "text": list(documents.values()), **columns})


def result(decisions: pa.Table) -> dict[str, Decision]:
    return {row["id"]: Decision(row["survivor_id"], row["jaccard"]) for row in decisions.to_pylist()}


def named(texts: list[str]) -> dict[str, str]:
    return {f"d{number}": text for number, text in enumerate(texts)}


@given(TEXTS, THRESHOLDS)
@example(
    ["abcabd", "abcabd.", "abcabdb", "abcabdaa"], 0.6
)  # the first is nearer to one that comes after the second
@settings(max_examples=200, deadline=None)
def test_anchored_is_the_greedy_independent_set_over_all_pairs(texts: list[str], threshold: float) -> None:
    documents = named(texts)
    decisions = deduplicate(table_of(documents), DedupConfig(threshold=threshold, **EVERY_PAIR))
    assert result(decisions) == anchored(documents, NGRAM, threshold)


@given(TEXTS, THRESHOLDS)
@settings(max_examples=200, deadline=None)
def test_linked_is_the_connected_components_over_all_pairs(texts: list[str], threshold: float) -> None:
    documents = named(texts)
    sets = {name: shingle_set(text, NGRAM) for name, text in documents.items()}
    config = DedupConfig(threshold=threshold, survivors="linked", **EVERY_PAIR)
    expected = linked(documents, NGRAM, lambda a, b: jaccard(sets[a], sets[b]) >= threshold)
    assert result(deduplicate(table_of(documents), config)) == expected


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_unverified_linked_is_the_components_over_datasketchs_bands(texts: list[str]) -> None:
    documents = named(texts)
    config = DedupConfig(ngram=NGRAM, bands=3, rows=2, verify="none", survivors="linked")
    rows = {}
    for name, text in documents.items():
        minhash = datasketch.MinHash(num_perm=config.num_perm, seed=config.seed, hashfunc=shingle_hash)
        minhash.update_batch(text_shingles(text, config))
        rows[name] = minhash.hashvalues.reshape(config.bands, config.rows)

    def share_a_band(first: str, second: str) -> bool:
        return bool((rows[first] == rows[second]).all(axis=1).any())

    expected = linked(documents, NGRAM, share_a_band)
    assert result(deduplicate(table_of(documents), config)) == expected


@given(TEXTS, THRESHOLDS)
@settings(max_examples=100, deadline=None)
def test_unverified_anchored_removes_only_for_a_kept_document(texts: list[str], threshold: float) -> None:
    config = DedupConfig(ngram=NGRAM, bands=3, rows=2, verify="none", threshold=threshold)
    documents = named(texts)
    decisions = result(deduplicate(table_of(documents), config))
    sets = {name: shingle_set(text, NGRAM) for name, text in documents.items()}
    for name, decision in decisions.items():
        assert decisions[decision.survivor] == Decision(decision.survivor, 1.0)
        assert decision.jaccard == jaccard(sets[name], sets[decision.survivor])


def test_slimpajama_is_nine_unverified_bands_of_thirteen_and_components() -> None:
    config = DedupConfig.slimpajama()
    assert (config.bands, config.rows, config.ngram, config.threshold) == (9, 13, 13, 0.8)
    assert (config.verify, config.survivors) == ("none", "linked")


def test_a_chain_is_cut_by_anchored_and_swallowed_by_linked() -> None:
    alphabet = "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허"
    documents = {f"d{start}": alphabet[start : start + 20 - start // 3] for start in (0, 3, 6)}
    sets = [shingle_set(text, NGRAM) for text in documents.values()]
    threshold = 0.7
    assert jaccard(sets[0], sets[1]) >= threshold <= jaccard(sets[1], sets[2])
    assert jaccard(sets[0], sets[2]) < threshold
    config = DedupConfig(threshold=threshold, **EVERY_PAIR)
    chained = deduplicate(table_of(documents), config.model_copy(update={"survivors": "linked"}))
    assert chained["kept"].to_pylist() == [True, False, False]
    assert deduplicate(table_of(documents), config)["kept"].to_pylist() == [True, False, True]


def near_duplicates(count: int, seed: int = 0) -> dict[str, str]:
    """Synthetic families of texts: a random stem and members with a few words replaced."""
    chance = random.Random(seed)
    words = ["".join(chr(chance.randrange(0xAC00, 0xAC00 + 400)) for _ in range(3)) for _ in range(300)]
    documents = {}
    for number in range(count):
        if number % 4 == 0:
            stem = chance.choices(words, k=60)
        member = [chance.choice(words) if chance.random() < 0.02 else word for word in stem]
        documents[f"doc-{number:04d}"] = " ".join(member)
    return documents


@pytest.mark.parametrize("survivors", ["anchored", "linked"])
@pytest.mark.parametrize("verify", ["exact", "none"])
def test_order_of_the_input_does_not_matter(survivors: str, verify: str) -> None:
    config = DedupConfig(survivors=survivors, verify=verify, domain_priority=("b", "a"))
    documents = near_duplicates(200)
    table = table_of(documents, domain=[random.Random(name).choice("abc") for name in documents])
    expected = result(deduplicate(table, config))
    assert 20 < sum(name != decision.survivor for name, decision in expected.items()) < 180
    for seed in range(3):
        shuffled = table.take(np.random.default_rng(seed).permutation(table.num_rows))
        decisions = deduplicate(shuffled, config)
        assert decisions["id"].to_pylist() == shuffled["id"].to_pylist()
        assert result(decisions) == expected


def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(near_duplicates(1000))
    long_texts = pc.binary_repeat(table["text"], 20)  # several blocks of work
    table = table.set_column(1, "text", long_texts)
    results = []
    for threads in (1, 2, 4):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        results.append(deduplicate(table, DedupConfig()))
    assert results[0].equals(results[1])
    assert results[0].equals(results[2])


@given(
    st.permutations(range(6)),
    st.lists(st.sampled_from([None, float("nan"), 0.25, 3.0]), min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_priority_is_domain_then_quality_then_length_then_id(order: list[int], quality: list) -> None:
    domains = ["web", "web", "books", "law", None, "books"]
    texts = [
        "같은 글 하나",
        "같은 글 하나!",
        "같은 글 하나",
        "같은 글 하나",
        "같은 글 하나!!!",
        "같은 글 하나!",
    ]
    table = pa.table(
        {
            "id": [f"d{number}" for number in range(6)],
            "text": texts,
            "domain": pa.array(domains, pa.string()),
            "quality": pa.array(quality, pa.float64(), from_pandas=False),
        }
    ).take(list(order))
    decisions = deduplicate(table, DedupConfig(domain_priority=("law", "books")))
    rank = {"law": 0, "books": 1}
    known = [-np.inf if value is None or np.isnan(value) else value for value in quality]
    best = min(range(6), key=lambda row: (rank.get(domains[row], 2), -known[row], -len(texts[row]), row))
    assert set(decisions["survivor_id"].to_pylist()) == {f"d{best}"}
    assert set(decisions["jaccard"].to_pylist()) == {1.0}
    assert (decisions.filter(decisions["kept"])["id"].to_pylist()) == [f"d{best}"]


def test_quality_may_be_a_whole_number() -> None:
    table = pa.table({"id": ["a", "b"], "text": ["글", "글"], "quality": [1, 2]})
    assert deduplicate(table, DedupConfig())["kept"].to_pylist() == [False, True]


def test_without_quality_or_domains_the_longest_text_survives() -> None:
    documents = {"a": "글 하나", "b": "글, 하나.", "c": "글 하나"}
    assert by_length(documents)[0] == "b"
    assert set(deduplicate(table_of(documents), DedupConfig())["survivor_id"].to_pylist()) == {"b"}


def test_empty_texts_are_duplicates_of_each_other_only() -> None:
    documents = {"a": "", "b": " ...", "c": "글", "d": "!?"}
    assert {normalized(documents[name]) for name in "abd"} == {""}
    for config in (DedupConfig(), DedupConfig.slimpajama(), DedupConfig(verify="none")):
        decisions = result(deduplicate(table_of(documents), config))
        assert {name: decision.survivor for name, decision in decisions.items()} == dict(
            a="b", b="b", c="c", d="b"
        )


def test_a_text_shorter_than_an_ngram_is_one_shingle() -> None:
    decisions = deduplicate(
        table_of({"a": "짧은 글", "b": "짧은 글!", "c": "짧은 글 둘"}), DedupConfig(ngram=13)
    )
    assert decisions["survivor_id"].to_pylist() == ["b", "b", "c"]


def test_decisions_have_their_schema_and_the_order_of_the_input() -> None:
    table = table_of(near_duplicates(40)).cast(pa.schema([("id", pa.large_string()), ("text", pa.string())]))
    decisions = deduplicate(table, DedupConfig())
    assert decisions.schema.equals(DECISION_SCHEMA)
    assert decisions["id"].to_pylist() == table["id"].to_pylist()
    assert decisions["cluster_id"].equals(decisions["survivor_id"])
    assert decisions["kept"].to_pylist() == pc.equal(decisions["id"], decisions["survivor_id"]).to_pylist()


def test_no_documents_give_no_decisions() -> None:
    empty = pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.large_string())})
    for survivors in ("anchored", "linked"):
        assert deduplicate(empty, DedupConfig(survivors=survivors)).equals(DECISION_SCHEMA.empty_table())


def test_decide_needs_no_second_hashing_but_the_right_signatures() -> None:
    table, config = table_of(near_duplicates(60)), DedupConfig()
    signatures = compute_signatures(table["text"], config)
    assert decide(table, signatures, config).equals(deduplicate(table, config))
    with pytest.raises(ValueError, match="compute the signatures again"):
        decide(table.slice(1), signatures, config)
    with pytest.raises(ValueError, match="compute the signatures again"):
        decide(table, signatures, DedupConfig(bands=20))
    longer = table.set_column(1, "text", pc.binary_join_element_wise(table["text"], "더", " "))
    with pytest.raises(ValueError, match="is not the text its signature was made from"):
        decide(longer, signatures, config)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (
            {"id": [*"aabbccddeeffg"], "text": [*"1234567890123"]},
            ValueError,
            r"6 ids .* 'a', 'b', 'c', 'd', 'e':",
        ),
        ({"id": ["a", None], "text": ["", ""]}, ValueError, r"column 'id' has 1 nulls, the first in row 1"),
        ({"id": ["a", "b"], "text": ["", None]}, ValueError, r"column 'text' has 1 nulls.*id 'b'"),
        ({"id": ["a"], "body": ["b"]}, ValueError, r"no column text, only id, body"),
        ({"id": [1], "text": ["b"]}, TypeError, r"column 'id' is int64: cast it to string"),
        ({"id": ["a"], "text": [b"b"]}, TypeError, r"column 'text' is binary: cast it to string"),
        ({"id": ["a"], "text": ["b"], "quality": ["good"]}, TypeError, r"column 'quality' is string"),
    ],
)
def test_bad_documents_are_refused_by_name(table: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        deduplicate(pa.table(table), DedupConfig())


def test_domain_priority_needs_domains() -> None:
    with pytest.raises(ValueError, match="no column domain"):
        deduplicate(table_of({"a": "글"}), DedupConfig(domain_priority=("law",)))


def test_the_log_tells_what_happened() -> None:
    lines: list[str] = []
    deduplicate(table_of({"a": "글", "b": "글!", "c": "다른 글"}), DedupConfig(), log=lines.append)
    assert "99.83% of pairs at Jaccard 0.8" in "\n".join(lines)
    assert lines[-1] == "2 of 3 documents stay; 1 are exact and 0 near-duplicates"


def test_collision_probability_is_the_share_of_pairs_that_meet() -> None:
    """Compare the formula with MinHashes of random sets of Jaccard 0.5."""
    config = DedupConfig(bands=5, rows=3, ngram=1)
    chance = np.random.default_rng(0)
    first, second = [], []
    for _ in range(2000):
        letters = chance.choice(11172, 90, replace=False) + 0xAC00
        first.append("".join(map(chr, letters[:60])))
        second.append("".join(map(chr, letters[30:])))
    assert all(
        jaccard(shingle_set(a, 1), shingle_set(b, 1)) == 1 / 3
        for a, b in zip(first[:9], second[:9], strict=True)
    )
    keys = compute_signatures(pa.array(first + second), config).band_keys
    met = (keys[:, :2000] == keys[:, 2000:]).any(axis=0).mean()
    assert abs(met - config.collision_probability(1 / 3)) < 0.03


def test_pairs_of_the_synthetic_families_lie_on_both_sides_of_the_threshold() -> None:
    """Guards the tests above: families that are all alike or all different would prove nothing."""
    sets = [shingle_set(text, 13) for text in list(near_duplicates(40).values())]
    near = [jaccard(a, b) for a, b in combinations(sets, 2) if a & b]
    assert min(near) < 0.5 and max(near) > 0.8
