"""The sample corpus is deterministic, labelled synthetic, and its truth is complete."""

import gzip
import json
import random
import string
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from scipy import sparse

from yunmin_assets.corpus.sample import SampleSummary, write_sample_corpus
from yunmin_assets.corpus.sample.grammar import DOMAINS, Author, compose, load_domain
from yunmin_assets.corpus.sample.josa import with_particle
from yunmin_assets.corpus.sample.variants import VARIANT_KINDS

DOCUMENTS = 300
Sample = tuple[Path, SampleSummary]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("sample")
    return folder, write_sample_corpus(folder, seed=3, documents_per_domain=DOCUMENTS)


@pytest.fixture(scope="module")
def readable(sample: Sample) -> list[dict[str, str]]:
    return [record for name in DOMAINS for record in parsed_lines(sample, name) if is_readable(record)]


def parsed_lines(sample: Sample, domain: str) -> list[object]:
    folder, summary = sample
    content = (folder / summary.files[domain]).read_bytes()
    if summary.files[domain].endswith(".gz"):
        content = gzip.decompress(content)
    if summary.files[domain].endswith(".zst"):
        content = zstandard.ZstdDecompressor().decompress(content)
    return [parsed(line) for line in content.decode().splitlines()]


def parsed(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def is_readable(record: object) -> bool:
    return isinstance(record, dict) and isinstance(record.get("text"), str)


def normalised(text: str) -> str:
    """The documented normalisation, written a second time."""
    text = unicodedata.normalize("NFC", text).lower()
    return " ".join("".join(letter for letter in text if letter not in string.punctuation).split())


def similarities(texts: list[str]) -> dict[tuple[int, int], float]:
    """Exact Jaccard similarity of every pair that shares a 13-gram: an inverted index as a sparse product."""
    vocabulary: dict[str, int] = {}
    rows, columns = [], []
    for row, text in enumerate(map(normalised, texts)):
        for gram in {text[start : start + 13] for start in range(max(1, len(text) - 12))}:
            rows.append(row)
            columns.append(vocabulary.setdefault(gram, len(vocabulary)))
    incidence = sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)))
    sizes = np.asarray(incidence.sum(axis=1)).ravel()
    shared = sparse.triu(incidence @ incidence.T, k=1).tocoo()
    values = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    return dict(zip(zip(shared.row.tolist(), shared.col.tolist(), strict=True), values.tolist(), strict=True))


def truth(sample: Sample) -> dict[tuple[str, str], float]:
    table = pq.read_table(sample[0] / "_truth" / "pairs.parquet")
    return {(row["a"], row["b"]): row["jaccard"] for row in table.to_pylist()}


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(
    sample: Sample, tmp_path: Path
) -> None:
    write_sample_corpus(tmp_path / "again", seed=3, documents_per_domain=DOCUMENTS)
    write_sample_corpus(tmp_path / "other", seed=4, documents_per_domain=DOCUMENTS)
    files = sorted(path.relative_to(sample[0]) for path in sample[0].rglob("*") if path.is_file())
    assert len(files) == len(DOMAINS) + 3
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (sample[0] / file).read_bytes()
    for name in sample[1].files.values():
        assert (tmp_path / "other" / name).read_bytes() != (sample[0] / name).read_bytes()


def test_the_truth_is_every_near_duplicate_and_its_jaccard_is_exact(
    sample: Sample, readable: list[dict[str, str]]
) -> None:
    found = similarities([record["text"] for record in readable])
    ids = [record["id"] for record in readable]
    named = {tuple(sorted((ids[first], ids[second]))): value for (first, second), value in found.items()}
    known = truth(sample)
    assert all(a < b for a, b in known)
    for pair, value in known.items():
        assert named.get(pair, 0.0) == pytest.approx(value, abs=1e-12)
    assert {pair for pair, value in named.items() if value >= 0.8} == {
        pair for pair, value in known.items() if value >= 0.8
    }
    assert max(value for pair, value in named.items() if pair not in known) < 0.45


@pytest.mark.parametrize("name", DOMAINS)
def test_independent_documents_of_a_domain_are_not_near_duplicates(name: str) -> None:
    rng = random.Random(11)
    texts = [compose(load_domain(name), rng) for _ in range(600)]
    assert len(set(texts)) == len(texts)
    assert max(similarities(texts).values()) < 0.35


def test_resemblance_is_spread_over_the_interesting_range(sample: Sample) -> None:
    counts, _ = np.histogram(list(truth(sample).values()), bins=[0.6, 0.7, 0.8, 0.9, 0.999, 1.01])
    assert (counts >= 20).all()


def test_the_summary_counts_what_is_there(sample: Sample, readable: list[dict[str, str]]) -> None:
    folder, summary = sample
    assert summary.documents == dict.fromkeys(DOMAINS, DOCUMENTS)
    assert len(readable) == len({record["id"] for record in readable}) == DOCUMENTS * len(DOMAINS)
    assert set(summary.planted) == {*VARIANT_KINDS, "too_short", "control_characters"}
    assert summary.planted["too_short"] == sum(len(record["text"]) < 80 for record in readable)
    assert summary.planted["control_characters"] == sum(
        "\x07" in text or "\x08" in text or "\x7f" in text or "\u200b" in text
        for text in (record["text"] for record in readable)
    )
    assert summary.planted["unicode_form"] == sum(
        not unicodedata.is_normalized("NFC", record["text"]) for record in readable
    )
    known = truth(sample)
    assert summary.pairs == len(known)
    assert summary.near_duplicate_pairs == sum(value >= 0.8 for value in known.values())
    assert json.loads((folder / "_truth" / "summary.json").read_text())["pairs"] == summary.pairs


def test_every_domain_has_broken_lines_and_less_than_one_percent_of_them(sample: Sample) -> None:
    broken_anywhere = 0
    for name in DOMAINS:
        records = parsed_lines(sample, name)
        broken = [record for record in records if not is_readable(record)]
        assert 0 < len(broken) < 0.01 * len(records)
        broken_anywhere += len(broken)
    assert broken_anywhere == sum(sample[1].broken_lines.values())


def test_every_document_is_labelled_synthetic(sample: Sample, readable: list[dict[str, str]]) -> None:
    assert sample[1].synthetic
    for record in readable:
        assert record["source"] == "synthetic:yunmin-sample"
        assert (record["license"], record["lang"]) == ("CC0-1.0", "ko")
        assert record["id"].startswith(record["domain"] + "/")
    assert {record["domain"] for record in readable} == set(DOMAINS)


def test_some_copies_cross_domains(sample: Sample) -> None:
    pairs = pq.read_table(sample[0] / "_truth" / "pairs.parquet").to_pylist()
    across = [row for row in pairs if row["a"].split("/")[0] != row["b"].split("/")[0]]
    assert any(row["kind"] == "exact_across_domains" and row["jaccard"] == 1.0 for row in across)


@pytest.mark.parametrize("name", DOMAINS)
def test_texts_are_of_readable_length_with_right_particles_and_no_template_left(name: str) -> None:
    rng = random.Random(5)
    for _ in range(200):
        text = compose(load_domain(name), rng)
        assert 400 <= len(text) <= 1500
        assert not set("{}<>|") & set(text.replace(" | ", ""))
        for before, particle, after in zip(text, text[1:], text[2:] + " ", strict=False):
            if particle == "를" and after in " ,." and "가" <= before <= "힣":
                assert (ord(before) - 0xAC00) % 28 == 0, f"{before}를 in {text}"


def test_a_topic_sets_the_register_of_its_domain() -> None:
    marks = {
        "korean_textbook": ("해요", "어요", "였다", "었다"),
        "national_assembly_data": ("○",),
        "social_media_data": ("ㅋ", "#", "ㅠ", "ㅎ", "@"),
        "papers_data": ("였다", "었다", "한다", "된다", "있다"),
    }
    for name, endings in marks.items():
        rng = random.Random(1)
        for _ in range(50):
            text = compose(load_domain(name), rng)
            assert any(ending in text for ending in endings), text


@pytest.mark.parametrize(
    ("word", "particle", "expected"),
    [
        ("사과", "은", "사과는"), ("귤", "은", "귤은"), ("학교", "이", "학교가"), ("책", "을", "책을"),
        ("서울", "으로", "서울로"), ("부산", "으로", "부산으로"), ("제주", "으로", "제주로"),
        ("강", "과", "강과"), ("바다", "과", "바다와"), ("‘파도’", "을", "‘파도’를"), ("3", "이", "3이"),
        ("0.42", "이", "0.42가"), ("17", "으로", "17로"), ("50%", "을", "50%를"), ("XML", "으로", "XML로"),
    ],
)  # fmt: skip
def test_particles_follow_the_sound(word: str, particle: str, expected: str) -> None:
    assert with_particle(word, particle) == expected


def test_a_wrong_particle_bank_or_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown particle '께서'"):
        with_particle("할머니", "께서")
    with pytest.raises(ValueError, match="no bank named 'citty'"):
        Author({}, random.Random(0)).expand("{citty}")
    with pytest.raises(ValueError, match="at least 100"):
        write_sample_corpus(tmp_path, documents_per_domain=99)


def test_a_bank_does_not_repeat_before_it_is_through() -> None:
    author = Author({"number": ("{one}", "둘", "셋"), "one": ("하나",)}, random.Random(0))
    assert sorted(author.follow("number*3").split()) == ["둘", "셋", "하나"]
