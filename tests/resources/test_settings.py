"""A configuration is checked key by key before any work starts."""

from pathlib import Path

import pytest

from resources.lake import open_uri
from resources.settings import REPOSITORY, load_pipeline_config


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("YUNMIN_RAW", "YUNMIN_LAKE"):
        monkeypatch.delenv(name, raising=False)


def config_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_configuration_is_valid_and_its_folders_are_below_the_repository() -> None:
    config = load_pipeline_config(REPOSITORY / "configs" / "pipeline.yaml")
    assert config.raw == str(REPOSITORY / "data" / "demo" / "raw")
    assert (REPOSITORY / config.evaluation.prompts).exists()


def test_the_production_configuration_is_valid_and_all_its_data_lies_on_s3() -> None:
    config = load_pipeline_config(REPOSITORY / "configs" / "production.yaml")
    given = (config.tokenizer.path, config.base_model.path, config.evaluation.benchmarks)
    for uri in (config.raw, config.lake, *given):
        assert isinstance(uri, str)
        assert uri.startswith("s3://yunmin-")
    assert set(config.dedup.domain_priority) == {
        "main_data",
        "korean_textbook",
        "academic_data",
        "papers_data",
        "national_data",
        "national_assembly_data",
        "web_data",
        "social_media_data",
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("dedup: {treshold: 0.8}", r"pipeline.yaml: dedup.treshold: Extra inputs are not permitted"),
        ("dedup: {threshold: 8}", r"pipeline.yaml: dedup.threshold: .*less than or equal to 1"),
        ("pack: {seqlen: 256}", r"pipeline.yaml: pack.seqlen: Extra inputs"),
        ("splits: {validation: 0.6, test: 0.6}", r"must stay below 1"),
        ("evaluation: {token_budget: 512}", r"token_budget 512 is smaller than max_length 1024"),
        ("merged_model: {method: slerp}", r"slerp needs two weights that sum to 1"),
        ("raw: [", r"pipeline.yaml is not valid YAML"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_place(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_pipeline_config(config_file(tmp_path, text))


def test_a_missing_file_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist: set YUNMIN_CONFIG"):
        load_pipeline_config(tmp_path / "nowhere.yaml")


def test_the_environment_overrides_the_folders_and_relative_model_paths_are_below_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YUNMIN_LAKE", "s3://bucket/lake")
    config = load_pipeline_config(config_file(tmp_path, "base_model: {path: models/base}"))
    assert config.lake == "s3://bucket/lake"
    assert config.base_model.path == REPOSITORY / "models" / "base"


@pytest.mark.parametrize("section", ["tokenizer", "reference_model", "base_model"])
def test_what_a_user_gives_may_lie_on_s3(tmp_path: Path, section: str) -> None:
    config = load_pipeline_config(config_file(tmp_path, f"{section}: {{path: s3://bucket/folder//model}}"))
    assert getattr(config, section).path == "s3://bucket/folder//model"


@pytest.mark.parametrize("uri", ["gs://bucket/x", "file:///tmp/x", "S3://bucket/x"])
def test_an_unknown_scheme_is_refused_and_never_taken_for_a_local_folder(uri: str) -> None:
    with pytest.raises(ValueError, match="only local folders and s3:// are supported"):
        open_uri(uri)


def test_slerp_goes_with_given_weights_that_sum_to_one(tmp_path: Path) -> None:
    text = "merged_model: {method: slerp}\ndomain_weights: {method: fixed, fixed: {law: 0.4, tech: 0.6}}"
    assert load_pipeline_config(config_file(tmp_path, text)).merged_model.method == "slerp"
