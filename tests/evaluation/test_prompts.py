"""The prompts that the report continues."""

import json
from collections import Counter
from pathlib import Path

from yunmin_assets.evaluation.scoring_config import load_scoring_rules

CONFIGS = Path(__file__).parents[2] / "configs"
PROMPTS = [
    json.loads(line) for line in (CONFIGS / "eval_prompts.jsonl").read_text(encoding="utf-8").splitlines()
]
WITH_REFERENCE = {"summary", "translation"}


def test_forty_different_korean_prompts_cover_every_kind() -> None:
    assert (
        len(PROMPTS)
        == len({each["id"] for each in PROMPTS})
        == len({each["prompt"] for each in PROMPTS})
        == 40
    )
    kinds = Counter(each["kind"] for each in PROMPTS)
    assert set(kinds) == set(load_scoring_rules(CONFIGS / "scoring_rules.yaml").kinds)
    assert min(kinds.values()) >= 5
    for each in PROMPTS:
        assert set(each) - {"domain", "reference"} == {"id", "kind", "prompt"}
        assert each["id"].startswith(f"{each['kind']}-")
        assert any("가" <= letter <= "힣" for letter in each["prompt"])


def test_summaries_and_translations_have_a_reference_that_the_prompt_does_not_give_away() -> None:
    for each in PROMPTS:
        assert ("reference" in each) == (each["kind"] in WITH_REFERENCE)
        if "reference" in each:
            assert each["reference"].strip() == each["reference"] != ""
            assert each["reference"] not in each["prompt"]


def test_no_prompt_ends_in_white_space_that_a_tokenizer_would_cut_off_from_the_next_word() -> None:
    assert [each["id"] for each in PROMPTS if each["prompt"] != each["prompt"].strip()] == []
