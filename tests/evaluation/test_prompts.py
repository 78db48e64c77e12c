"""The prompts that the report continues."""

import json
from collections import Counter
from pathlib import Path

PROMPTS = Path(__file__).parents[2] / "configs" / "eval_prompts.jsonl"
KINDS = {"knowledge", "conversation", "explanation", "summary", "translation", "code", "poem"}


def test_twenty_different_korean_prompts_cover_every_kind() -> None:
    prompts = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert (
        len(prompts)
        == len({each["id"] for each in prompts})
        == len({each["prompt"] for each in prompts})
        == 20
    )
    assert set(Counter(each["kind"] for each in prompts)) == KINDS
    for each in prompts:
        assert set(each) - {"domain"} == {"id", "kind", "prompt"}
        assert any("가" <= letter <= "힣" for letter in each["prompt"])
