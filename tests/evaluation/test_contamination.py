"""What of an evaluation set stands in training documents: exact, against sets of strings."""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dedup.oracle import normalized
from yunmin_assets import evaluation
from yunmin_assets.dedup.shingles import shingle_hash64
from yunmin_assets.documents import DOCUMENT_SCHEMA, RowGroupWriter, write_documents
from yunmin_assets.evaluation.contamination import Contamination, check_contamination
from yunmin_assets.evaluation.ngram_index import index_ngrams

QUESTION = "세종대왕이 훈민정음을 반포한 해는 언제인가? 보기에서 고르시오."
UNRELATED = "오늘 아침에는 비가 내려서 우산을 들고 회사까지 천천히 걸어갔다."


def documents_of(texts: Mapping[str, str], domain: str = "law") -> pa.Table:
    """A table of documents: id → text."""
    rows = [{"id": name, "text": text, "domain": domain} for name, text in texts.items()]
    return pa.Table.from_pylist(rows, DOCUMENT_SCHEMA)


def compared(text: str) -> str:
    """What of a text is compared."""
    return normalized(text).replace(" ", "")


def check(items: Mapping[str, str], texts: Mapping[str, str], folder: Path, ngram: int = 11) -> Contamination:
    """One evaluation set against one file of documents."""
    write_documents(documents_of(texts), folder / "train.parquet")
    return check_contamination({"set": items.items()}, [folder / "train.parquet"], ngram=ngram)["set"]


def ngrams(text: str, ngram: int) -> list[str]:
    """Of the normalised text without blanks, in order; none of a shorter text."""
    seen = compared(text)
    return [seen[start : start + ngram] for start in range(len(seen) - ngram + 1)]


def shares(items: Mapping[str, str], texts: Sequence[str], ngram: int) -> dict[str, float]:
    """By item of which something was found, the share of its n-grams that are in the set of all n-grams."""
    known = {piece for text in texts for piece in ngrams(text, ngram)}
    found = {}
    for name, text in items.items():
        pieces = ngrams(text, ngram)
        if any(piece in known for piece in pieces):
            found[name] = sum(piece in known for piece in pieces) / len(pieces)
    return found


def assert_exact(found: Contamination, items: Mapping[str, str], texts: Mapping[str, str]) -> None:
    """Against sets of strings; and every example is true."""
    expected = shares(items, list(texts.values()), found.ngram)
    assert {each.item: each.share for each in found.contaminated} == pytest.approx(expected)
    assert set(found.too_short) == {name for name, text in items.items() if not ngrams(text, found.ngram)}
    assert found.items + len(found.too_short) == len(items)
    for each in found.contaminated:
        assert each.excerpt in normalized(items[each.item])
        pieces = ngrams(each.excerpt, found.ngram)
        assert pieces and set(ngrams(texts[each.document], found.ngram)).issuperset(pieces)


def test_an_item_that_stands_in_a_document_is_found_whole(tmp_path: Path) -> None:
    texts = {"a": UNRELATED, "b": f"시험 문제. {QUESTION.replace('?', ' ?!')}\n정답은 1446년이다."}
    found = check(
        {"1": QUESTION, "2": UNRELATED[:20] + "…", "3": "전혀 다른 문장이며 어디에도 없다."}, texts, tmp_path
    )
    first, second = found.contaminated
    assert (first.item, first.share, first.domain, first.document) == ("1", 1.0, "law", "b")
    assert first.excerpt == normalized(QUESTION)
    assert (second.item, second.document, second.share) == ("2", "a", 5 / 6)
    assert (found.items, found.too_short, found.documents) == (3, (), 2)
    assert found.share() == pytest.approx(2 / 3)
    assert found.share(at_least=1.0) == pytest.approx(1 / 3)


def test_the_example_is_the_document_that_brought_most_and_not_the_one_with_a_common_phrase(
    tmp_path: Path,
) -> None:
    texts = {"phrase": "다른 문제: 보기에서 고르시오. 그리고 언제인가? 보기에서 고르시오.", "leak": QUESTION}
    (item,) = check({"1": QUESTION}, texts, tmp_path).contaminated
    assert (item.share, item.document) == (1.0, "leak")
    assert item.excerpt == normalized(QUESTION).removesuffix("시오"), "the rest had the phrase brought"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_case_punctuation_spacing_and_composition_do_not_hide_an_item(form: str, tmp_path: Path) -> None:
    item = "GPU 메모리가 부족하면, 배치 크기를 줄인다!"
    hidden = unicodedata.normalize(form, "앞 gpu   메모리가 (부족하면) 배치\n크기를 줄인다 뒤")
    (found,) = check({"1": item}, {"a": hidden}, tmp_path).contaminated
    assert found.share == 1


@pytest.mark.parametrize("spaced", [lambda text: text.replace(" ", ""), " ".join], ids=["none", "everywhere"])
def test_blanks_do_not_hide_an_item_whose_excerpt_is_written_as_the_item_is(spaced, tmp_path: Path) -> None:
    (found,) = check({"1": QUESTION}, {"a": f"앞. {spaced(QUESTION)} 뒤."}, tmp_path).contaminated
    assert (found.share, found.excerpt) == (1.0, normalized(QUESTION))
    (found,) = check({"1": spaced(QUESTION)}, {"a": QUESTION}, tmp_path).contaminated
    assert found.share == 1.0


def test_every_white_space_is_dropped_from_documents_as_from_items(tmp_path: Path) -> None:
    """U+2000 and U+2001 are not in NFC, where they are other blanks."""
    blanks = [character for character in map(chr, range(0x3001)) if character.isspace()]
    hidden = "".join(letter + blanks[place % len(blanks)] for place, letter in enumerate(QUESTION * 3))
    (found,) = check({"1": QUESTION * 3}, {"a": hidden}, tmp_path).contaminated
    assert found.share == 1.0
    (found,) = check({"1": hidden}, {"a": QUESTION * 3}, tmp_path).contaminated
    assert found.share == 1.0


def test_short_items_are_counted_apart_and_short_documents_hold_nothing(tmp_path: Path) -> None:
    found = check(
        {"short": "열 글자 까지는 너무 짧", "empty": "?!", "long": "열 글자 까지는 너무 짧다네"},
        {"a": "열 글자 까지는 너무 짧"},
        tmp_path,
    )
    assert found.too_short == ("short", "empty")
    assert (found.items, found.contaminated, found.share()) == (1, (), 0.0)


def test_without_items_to_compare_there_is_no_share(tmp_path: Path) -> None:
    for items in ({}, {"short": "짧다"}):
        assert check(items, {"a": UNRELATED}, tmp_path).share() is None


DECOMPOSED = "\u1100\u1161"  # 가 as two characters, which nothing may come between
LETTERS = st.lists(st.sampled_from([*"가나다ab B.,\né", DECOMPOSED]), max_size=40).map("".join)
TEXTS = st.lists(LETTERS, max_size=8)


@given(items=TEXTS, texts=TEXTS, ngram=st.integers(1, 6), planted=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_planted_overlaps_are_found_as_by_sets_of_strings(
    items: list[str], texts: list[str], ngram: int, planted: st.DataObject, tmp_path: Path
) -> None:
    if items and texts and planted.draw(st.booleans()):
        source = planted.draw(st.sampled_from(items))
        start = planted.draw(st.integers(0, len(source)))
        texts[0] += source[start : start + planted.draw(st.integers(0, 20))]
    by_item = {f"item {number}": text for number, text in enumerate(items)}
    by_document = {f"document {number}": text for number, text in enumerate(texts)}
    assert_exact(check(by_item, by_document, tmp_path, ngram), by_item, by_document)


@given(texts=st.lists(st.text("가나 ", max_size=60), min_size=1, max_size=30), cut=st.integers(0, 30))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_row_groups_and_their_order_change_no_share(texts: list[str], cut: int, tmp_path: Path) -> None:
    items = {str(number): text for number, text in enumerate(texts[::3])}
    documents = documents_of({f"d{number}": text for number, text in enumerate(texts[1:])})
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_documents(documents.slice(0, cut), first)
    with RowGroupWriter(second, DOCUMENT_SCHEMA) as writer:
        writer.write(documents.slice(cut))
    both = check_contamination({"set": items.items()}, [first, second], ngram=4)["set"]
    swapped = check_contamination({"set": items.items()}, [second, first], ngram=4)["set"]
    expected = pytest.approx(shares(items, texts[1:], 4))
    assert {each.item: each.share for each in both.contaminated} == expected
    assert {each.item: each.share for each in swapped.contaminated} == expected
    assert both.documents == swapped.documents == len(texts) - 1


def test_documents_of_several_batches_and_domains_are_named_rightly(tmp_path: Path) -> None:
    """More than one row group of 1,024, more than one block of a megabyte, and ids that domains share."""
    filler = {str(number): f"{number}번째 " + "채움 글입니다 " * 100 for number in range(3000)}
    planted = {"law": {"2900": UNRELATED}, "tech": {"1500": QUESTION, "2000": UNRELATED, "2999": QUESTION}}
    for domain, texts in planted.items():
        write_documents(documents_of(filler | texts, domain), tmp_path / f"{domain}.parquet")
    items = {"first": QUESTION, "last": UNRELATED}
    files = [tmp_path / "law.parquet", tmp_path / "tech.parquet"]
    found = check_contamination({"set": items.items()}, files)["set"].contaminated
    named = [(each.item, each.domain, each.document) for each in found]
    assert named == [("first", "tech", "1500"), ("last", "law", "2900")], "the first that holds it"


def test_the_excerpt_is_the_longest_stretch(tmp_path: Path) -> None:
    item = f"{UNRELATED[:15]} 그런데 {QUESTION}"
    (found,) = check({"1": item}, {"a": f"{UNRELATED[:15]}. {QUESTION}"}, tmp_path).contaminated
    assert found.excerpt.strip() == normalized(QUESTION)
    assert found.share < 1


def test_several_sets_in_one_pass_are_each_as_alone(tmp_path: Path) -> None:
    texts = {"a": QUESTION, "b": UNRELATED}
    sets = {
        "one": {"1": QUESTION, "2": "짧다"},
        "two": {"1": UNRELATED + QUESTION, "2": "이 문장은 아무 데도 없는 문장이다."},
    }
    alone = {name: check(items, texts, tmp_path) for name, items in sets.items()}
    together = check_contamination(
        {name: items.items() for name, items in sets.items()}, [tmp_path / "train.parquet"], ngram=11
    )
    assert together == alone


def thue_morse(length: int) -> tuple[str, str]:
    """The sequence and its opposite, whose polynomial hashes mod 2⁶⁴ are the same from some length on."""
    ones = [place.bit_count() % 2 for place in range(length)]
    return "".join("ab"[one] for one in ones), "".join("ba"[one] for one in ones)


def test_texts_with_the_same_hash_are_told_apart(tmp_path: Path) -> None:
    one, other = thue_morse(2048)
    assert one != other and shingle_hash64(one) == shingle_hash64(other)
    assert not check({"1": one}, {"a": other}, tmp_path, ngram=2048).contaminated
    both = check({"1": one, "2": other}, {"a": other}, tmp_path, ngram=2048).contaminated
    assert [each.item for each in both] == ["2"]
    index = index_ngrams([one, other, one], 2048)
    assert [index.places(text).tolist() for text in range(3)] == [[0], [2048], [0]]


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="copa: item '7' occurs twice"):
        check_contamination({"copa": [("7", "가"), ("7", "나")]}, [])


def test_a_text_that_is_no_unicode_is_refused_by_item() -> None:
    with pytest.raises(ValueError, match="copa: item '7' holds half of a surrogate pair"):
        check_contamination({"copa": [("7", "가\ud800")]}, [])


def test_an_ngram_of_no_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="n-gram of 0 characters"):
        check_contamination({"copa": [("7", "가")]}, [], ngram=0)


def test_a_broken_document_is_refused_by_file_and_row(tmp_path: Path) -> None:
    broken = pa.LargeStringArray.from_buffers(
        1, pa.array([0, 2], pa.int64()).buffers()[1], pa.py_buffer(b"\xff\xfe")
    )
    table = pa.table({"id": ["x"], "domain": ["law"], "text": broken})
    write_documents(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"train.parquet, document 0 \(id 'x'\): text is not UTF-8"):
        check_contamination({"set": [("1", QUESTION)]}, [tmp_path / "train.parquet"])


KOBEST_TEXTS = {
    "boolq": ("Text", "Question"),
    "copa": ("sentence", "1", "2"),
    "hellaswag": ("context", "choice1", "choice2", "choice3", "choice4"),
    "sentineg": ("Text",),
    "wic": ("SENTENCE1", "SENTENCE2"),
}


def kobest(folder: Path) -> dict[str, str]:
    """Task and number → text, of each item of the development sets."""
    items = {}
    for task, fields in KOBEST_TEXTS.items():
        lines = (folder / "eval" / f"kobest_{task}_dev.jsonl").read_bytes().splitlines()
        for number, record in enumerate(map(orjson.loads, lines)):
            items[f"{task} {number}"] = "\n".join(record[field] for field in fields)
    return items


def real_documents(folder: Path, domain: str) -> dict[str, str]:
    """Id → text of one domain of the corpus."""
    with zstandard.open(folder / "corpus" / f"{domain}.jsonl.zst", "rt", encoding="utf-8") as file:
        return {each["id"]: each["text"] for each in map(orjson.loads, file)}


def test_kobest_against_real_text_is_exact(shared_data: Path, tmp_path: Path) -> None:
    items, texts = kobest(shared_data), {}
    for domain in ("academic", "literature", "news"):
        own = real_documents(shared_data, domain)
        write_documents(documents_of(own, domain), tmp_path / f"{domain}.parquet")
        texts |= own
    found = check_contamination({"kobest": items.items()}, sorted(tmp_path.glob("*.parquet")))["kobest"]
    assert_exact(found, items, texts)
    assert (found.items, len(found.too_short), found.documents) == (2518, 192, 1336)
    assert len(found.contaminated) == 6
    most = {(each.item, each.domain) for each in found.contaminated if each.share > 0.5}
    assert most == {("wic 190", "literature"), ("wic 601", "literature")}, "they quote a novel of the corpus"


INDEX = Path(evaluation.__file__).parent / "ngram_index.py"
COMPILED_WITH = ("../compiling.py", "../dedup/kernels.py")


def test_a_change_of_imported_code_shows_in_the_file_of_the_kernels() -> None:
    """Numba keeps compiled code until the kernel's own file changes: write the digest there, and it does."""
    digest = hashlib.sha256(b"".join((INDEX.parent / imported).read_bytes() for imported in COMPILED_WITH))
    assert f"# Compiled with {digest.hexdigest()[:12]}" in INDEX.read_text()
