"""One sorted listing of raw objects, the same for a local folder and for S3."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from resources.lake import open_uri
from yunmin_assets.corpus.listing import (
    NO_OBJECTS,
    RawObjectError,
    domain_of,
    extended,
    list_domain,
    list_domains,
    list_objects,
)

MORE_THAN_A_PAGE = 1_050
PARTS = st.sampled_from(["law", "law-a", "law_b", "lawn", "a b", "가", "_x", "z.part"])
NAMES = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, stem]) + suffix,
    st.lists(PARTS, max_size=2),
    PARTS,
    st.sampled_from([".jsonl", ".jsonl.gz", ".parquet", ".txt", ".jsonl.tmp"]),
)


@pytest.fixture
def root(tmp_path: Path) -> UPath:
    return UPath(tmp_path)


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> UPath:
    """A prefix on S3 for this test alone."""
    return open_uri(f"s3://lake/listing/{request.node.name}", s3_endpoint)


def write(root: UPath, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names_of(root: UPath, **selection: str) -> list[str]:
    return [item.name for item in list_objects(root, **selection)]


def test_a_domain_is_a_file_or_a_folder_and_hidden_and_unfinished_files_are_left_alone(root: UPath) -> None:
    write(root, "law.jsonl.zst", "tech/b.jsonl", "tech/deep/a.jsonl.gz", "tech/notes.txt", "news.parquet")
    write(
        root, "_truth/pairs.parquet", ".hidden.jsonl", "law2.jsonl.part", "tech/.a.jsonl", "tech/c.jsonl.tmp"
    )
    (root / "empty_folder").mkdir()
    found = list_domains(root)
    assert list(found) == ["law", "news", "tech"]
    assert [item.name for item in found["tech"].objects] == ["tech/b.jsonl", "tech/deep/a.jsonl.gz"]
    assert found["tech"].unread == ("tech/notes.txt",)


def test_a_missing_raw_folder_or_bucket_is_named_with_the_cure(root: UPath, s3_endpoint: str) -> None:
    with pytest.raises(RawObjectError, match="nowhere does not exist: create it"):
        list_domains(root / "nowhere")
    with pytest.raises(RawObjectError, match="the bucket of s3://nowhere/raw does not exist: create it"):
        list_domains(open_uri("s3://nowhere/raw", s3_endpoint))


def test_the_mark_of_a_folder_on_s3_is_no_object(bucket: UPath) -> None:
    bucket.fs.pipe_file(f"{bucket.path}/law/", b"")
    bucket.fs.pipe_file(f"{bucket.path}/tech/", b"")
    bucket.fs.pipe_file(f"{bucket.path}/tech/a.jsonl", b"x")
    assert list(list_domains(bucket)) == ["tech"]


def test_a_listing_of_several_pages_holds_every_object_once(bucket: UPath) -> None:
    expected = [f"law/{number:05}.jsonl" for number in range(MORE_THAN_A_PAGE)]
    bucket.fs.pipe({f"{bucket.path}/{name}": b"x" for name in expected}, batch_size=16)
    assert names_of(bucket) == expected
    assert names_of(bucket, after=expected[-2]) == expected[-1:]


def test_a_page_without_objects_is_not_the_end_of_a_listing(
    bucket: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may answer so after many deletions."""
    write(bucket, "law/a.jsonl")
    ask, empty_pages = bucket.fs.call_s3, iter(["first", "second"])

    def answer(method: str, **arguments: str) -> Any:
        if token := next(empty_pages, None):
            return {"IsTruncated": True, "NextContinuationToken": token}
        assert arguments.pop("ContinuationToken") == "second"  # without it the store would begin anew
        return ask(method, **arguments)

    monkeypatch.setattr(bucket.fs, "call_s3", answer)
    assert names_of(bucket) == ["law/a.jsonl"]


def test_a_domain_is_listed_without_the_objects_of_its_neighbours(bucket: UPath, root: UPath) -> None:
    for place in (bucket, root):
        write(
            place, "law-a/x.jsonl", "law.jsonl", "law.parquet", "law.x/y.jsonl", "law/z.jsonl", "lawn/a.jsonl"
        )
        listing = list_domain(place, "law")
        assert [item.name for item in listing.objects] == ["law.jsonl", "law.parquet", "law/z.jsonl"]
        assert list_domain(place, "tech").digest == NO_OBJECTS
        assert listing == list_domains(place)["law"]


def test_an_object_with_an_empty_part_in_its_name_is_told_as_not_read(bucket: UPath) -> None:
    bucket.fs.pipe_file(f"{bucket.path}/law/a.jsonl", b"x")
    bucket.fs.call_s3(
        "put_object", Bucket="lake", Key=f"{bucket.path.partition('/')[2]}/law//b.jsonl", Body=b"x"
    )
    assert list_domain(bucket, "law").unread == ("law//b.jsonl",)


def without_clashes(names: set[str]) -> list[str]:
    """Names that can be files of one local folder: none is a folder of another."""
    return sorted(name for name in names if not any(other.startswith(f"{name}/") for other in names))


@settings(max_examples=60)
@given(names=st.sets(NAMES, max_size=12), cut=st.integers(0, 12))
def test_a_local_listing_is_in_the_order_of_s3_and_goes_on_behind_any_name(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], cut: int
) -> None:
    root, expected = UPath(tmp_path_factory.mktemp("raw")), without_clashes(names)
    expected.sort(key=str.encode)
    write(root, *expected)
    assert names_of(root) == expected
    after = expected[min(cut, len(expected) - 1)] if expected else ""
    assert names_of(root, after=after) == [name for name in expected if name > after]
    for prefix in ("law.", "law/"):
        assert names_of(root, prefix=prefix) == [name for name in expected if name.startswith(prefix)]


@settings(max_examples=100)
@given(names=st.sets(NAMES, max_size=12))
def test_objects_of_a_domain_lie_together_in_the_listing(names: set[str]) -> None:
    domains = [
        domain for name in sorted(names) if (domain := domain_of(name)) is not None and "." not in domain
    ]
    changes = sum(1 for one, other in itertools.pairwise(domains) if one != other)
    assert changes == max(len(set(domains)) - 1, 0)


def test_a_digest_taken_in_pieces_is_that_of_the_whole_listing(root: UPath) -> None:
    write(root, "law/a.jsonl", "law/b.jsonl", "law/c.jsonl")
    first, *others = list_objects(root)
    digest = extended(NO_OBJECTS, first)
    for item in others:
        digest = extended(digest, item)
    assert digest == list_domain(root, "law").digest
    assert digest != extended(NO_OBJECTS, first)
