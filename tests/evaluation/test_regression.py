"""A report compares its merged model with the last report's, on the documents that both have measured."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.measure import FEWEST_DOCUMENTS, LOSSES_SCHEMA
from yunmin_assets.evaluation.model import ChangeRow
from yunmin_assets.evaluation.regression import LOSSES_FILE, compare_with_last, write_losses

CONFIG = EvaluationConfig(bootstrap_samples=200)


def losses(
    count: int = 25,
    *,
    first: int = 0,
    domain: str = "law",
    model: str = "merged",
    text: str = "a",
    tokens: int = 10,
    nats_per_byte: float = 2.0,
) -> pa.Table:
    """`count` documents of 100 bytes and more."""
    rows = [
        {
            "domain": domain,
            "model": model,
            "id": f"{domain}-{number}",
            "text_hash": f"{text}{number}",
            "nll": nats_per_byte * (100 + number),
            "n_tokens": tokens,
            "n_bytes": 100 + number,
        }
        for number in range(first, first + count)
    ]
    return pa.Table.from_pylist(rows, LOSSES_SCHEMA)


def compared(before: pa.Table, now: pa.Table, folder: Path) -> list[ChangeRow]:
    write_losses(before, folder, CONFIG)
    return compare_with_last(now, folder, "merged", CONFIG)


def test_the_same_losses_again_are_not_shown_to_differ(tmp_path: Path) -> None:
    (row,) = compared(losses(), losses(), tmp_path)
    assert (row.difference, row.low, row.high, row.p_value, row.verdict) == (0.0, 0.0, 0.0, 1.0, "not shown")


@pytest.mark.parametrize(("now", "verdict"), [(2.2, "worse"), (1.8, "better")])
def test_a_change_is_told_in_bits_per_byte(now: float, verdict: str, tmp_path: Path) -> None:
    (row,) = compared(losses(nats_per_byte=2.0), losses(nats_per_byte=now), tmp_path)
    assert row.verdict == verdict
    assert row.before == pytest.approx(2.0 / math.log(2))
    assert row.now == pytest.approx(now / math.log(2))
    assert row.difference == pytest.approx((now - 2.0) / math.log(2))


def test_another_tokenizer_does_not_matter(tmp_path: Path) -> None:
    with_few, with_many = (losses(nats_per_byte=2.2, tokens=tokens) for tokens in (3, 90))
    assert compared(losses(), with_few, tmp_path) == compared(losses(), with_many, tmp_path)


def test_only_documents_of_both_reports_with_unchanged_text_take_part(tmp_path: Path) -> None:
    before = pa.concat_tables([losses(22), losses(30, first=22, text="old ", nats_per_byte=9.0)])
    now = pa.concat_tables([losses(22), losses(30, first=22, text="new "), losses(40, first=90)])
    (row,) = compared(before, now, tmp_path)
    assert (row.documents, row.difference) == (22, 0.0)


def test_too_few_common_documents_give_no_row(tmp_path: Path) -> None:
    for count, rows in ((FEWEST_DOCUMENTS, 1), (FEWEST_DOCUMENTS - 1, 0)):
        assert len(compared(losses(count), losses(nats_per_byte=3.0), tmp_path)) == rows


def test_other_models_and_other_domains_are_not_compared(tmp_path: Path) -> None:
    assert compared(losses(model="base"), losses(), tmp_path) == []
    assert compared(losses(domain="tech"), losses(), tmp_path) == []


def test_verdicts_are_corrected_for_the_number_of_domains(tmp_path: Path) -> None:
    """One domain's change, with a p-value of some per cent alone, is no longer shown among twenty."""
    slight = losses(nats_per_byte=2.0).to_pylist()
    for number, row in enumerate(slight):
        row["nll"] += 1.0 + 2.2 * (-1) ** number
    changed = pa.Table.from_pylist(slight, LOSSES_SCHEMA)
    (alone,) = compared(losses(), changed, tmp_path)
    assert alone.p_value < 0.05 and alone.verdict == "worse"
    others = [losses(domain=f"domain {number}") for number in range(19)]
    among = compared(pa.concat_tables([losses(), *others]), pa.concat_tables([changed, *others]), tmp_path)
    law = next(row for row in among if row.domain == "law")
    assert law.difference == alone.difference
    assert law.p_value == pytest.approx(min(1.0, 20 * alone.p_value))
    assert law.verdict == "not shown"


def test_a_report_without_losses_has_nothing_to_compare_with(tmp_path: Path) -> None:
    assert not (tmp_path / LOSSES_FILE).exists()
    assert compare_with_last(losses(), tmp_path, "merged", CONFIG) == []


def test_losses_measured_or_stored_in_another_way_are_not_compared(tmp_path: Path) -> None:
    write_losses(losses(), tmp_path, EvaluationConfig(max_length=512))
    assert compare_with_last(losses(nats_per_byte=9.0), tmp_path, "merged", CONFIG) == []
    pq.write_table(
        losses().rename_columns([f"{name}_old" for name in LOSSES_SCHEMA.names]), tmp_path / LOSSES_FILE
    )
    assert compare_with_last(losses(nats_per_byte=9.0), tmp_path, "merged", CONFIG) == []
