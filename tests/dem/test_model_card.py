"""A model card says what the model was made from, under which licences, and whether that text was real."""

from dataclasses import replace

import pyarrow as pa
import yaml
from markdown_it import MarkdownIt

from yunmin_assets.dem.config import MergeConfig
from yunmin_assets.dem.model_card import (
    MergedBase,
    MergedDomain,
    TrainingText,
    describe_training_text,
    model_card,
)
from yunmin_assets.documents import write_documents

BASE = MergedBase("YunMin-Mamba-3B", "mamba", 2_800_000_000, "ab" * 32)


SUM = MergeConfig()


def shard(path, licences, sources=None):
    count = len(licences)
    write_documents(
        pa.table(
            {
                "license": pa.array(licences, pa.string()),
                "source": pa.array(sources or ["국가법령정보센터"] * count, pa.string()),
                "n_tokens": pa.array(range(1, count + 1), pa.int32()),
            }
        ),
        path,
    )
    return path


def domain(name="law", licences=None, synthetic=False):
    text = TrainingText(3, 1234, licences or {"KOGL-1": 2, "not stated": 1}, synthetic)
    return MergedDomain(name, 0.25, text, {"diff_vector": "cd" * 32})


def test_documents_are_counted_by_licence_over_all_shards(tmp_path):
    files = [
        shard(tmp_path / "a.parquet", ["KOGL-1", None, "CC BY 4.0"] * 700),
        shard(tmp_path / "b.parquet", ["KOGL-1"]),
    ]
    text = describe_training_text(files)
    assert text.licences == {"CC BY 4.0": 700, "KOGL-1": 701, "not stated": 700}
    assert (text.documents, text.tokens, text.synthetic) == (2101, 2100 * 2101 // 2 + 1, False)


def test_one_synthetic_document_is_enough_to_say_so(tmp_path):
    sources = ["국가법령정보센터", None, "synthetic:templates"]
    text = describe_training_text([shard(tmp_path / "a.parquet", ["x", "x", "x"], sources)])
    assert text.synthetic
    assert "synthetic" in model_card(BASE, [domain(synthetic=True)], SUM, "searched")
    assert "synthetic" not in model_card(BASE, [domain()], SUM, "searched")


def test_the_card_begins_with_what_a_model_hub_reads():
    _, front, _ = model_card(BASE, [domain()], SUM, "searched").split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": ["ko"],
        "tags": ["merge", "dem"],
    }


def test_the_card_names_base_domains_weights_licences_and_hashes():
    card = model_card(BASE, [domain("law"), domain("tech")], SUM, "searched")
    for expected in (
        "# `YunMin-Mamba-3B`, edited for law, tech",
        "(mamba, 2,800,000,000 parameters)",
        "Weights: searched.",
        "Θ_D = Θ + Σ wᵢ(Θᵢ − Θ)",
        "| law | 0.25 | 3 | 1,234 |",
        "| tech | `KOGL-1` | 2 |",
        "| diff_vector | law | cdcdcdcdcdcd |",
        "| base_model |  | abababababab |",
    ):
        assert expected in card


def test_a_card_says_what_else_than_the_sum_was_done_and_when_nothing_was():
    ties = model_card(BASE, [domain()], MergeConfig(method="ties", density=0.3), "searched")
    assert "TIES (arXiv 2306.01708), keeping 30%" in ties and "Σ wᵢ" not in ties
    unchanged = model_card(BASE, [replace(domain(), weight=0.0)], SUM, "base")
    assert "This is the base, unchanged" in unchanged
    assert "unchanged" not in ties


def test_a_licence_cannot_break_the_page():
    hostile = "<script>x</script> | `a` | [b](javascript:c)"
    base = MergedBase(hostile, "mamba", 1, "ab" * 32)
    card = model_card(base, [domain(licences={hostile: 1})], SUM, "searched")
    html = MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2])
    assert "<script>" not in html and "javascript:c)</a>" not in html and "<a " not in html
