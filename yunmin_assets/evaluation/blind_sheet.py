"""A page on which a person scores base against merged without knowing which is which, and the way back.

- One HTML file that needs nothing but itself: it opens from a disk, asks no network (its content security policy
  forbids every request and every script but its own, by hash) and saves `ratings.json`.
- Each prompt shows the two texts as A and B. In half of the prompts, drawn by a seed, A is the merged model. The page
  holds the sheet's id; who was A is in `key.json` alone.
- Pairs of equal texts are not shown: nobody has to compare a text with itself. They count as ties.
  Pairs of which a model could not write one are left out by name: they are neither shown nor counted.
- Verdict per criterion: the exact sign test over prompts, ties left out (Dixon and Mood 1946), with Holm's correction
  over the criteria.
"""

import base64
import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from markupsafe import Markup

from yunmin_assets.evaluation.page import environment
from yunmin_assets.evaluation.scoring_config import ScoringRules
from yunmin_assets.files import write_whole
from yunmin_assets.paired_bootstrap import Verdict, holm, verdict

HERE = Path(__file__).parent
TEMPLATE, SCRIPT = "blind_sheet.html.j2", "blind_sheet.js"
SHEET_FILE, KEY_FILE = "blind_sheet.html", "key.json"
ID_BYTES = 6

Side = Literal["A", "B"]
Choice = Literal["A", "B", "tie"]
SIDES: tuple[Side, ...] = get_args(Side)
CHOICES: tuple[Choice, ...] = get_args(Choice)


@dataclass(frozen=True)
class Pair:
    """What two models wrote after one prompt."""

    prompt_id: str
    kind: str
    prompt: str
    base: str
    merged: str
    problem: str | None = None
    """Why one of them is no answer."""


@dataclass(frozen=True)
class BlindKey:
    """What un-blinds a sheet."""

    sheet: str
    criteria: tuple[str, ...]
    merged_is: Mapping[str, Side]
    """By prompt id, the side that the merged model wrote."""
    equal: tuple[str, ...]
    """Prompts after which both wrote the same; not on the page."""
    left_out: tuple[str, ...] = ()
    """Prompts after which one could not write, and why; not on the page and not counted."""


@dataclass(frozen=True)
class CriterionVerdict:
    """How often people preferred the merged model, on one criterion."""

    criterion: str
    wins: int
    """Prompts on which the merged model was chosen."""
    ties: int
    """Chosen as equal; the pairs of equal texts are among them."""
    losses: int
    unrated: int
    p_value: float
    """Exact two-sided sign test, after Holm's correction over the criteria."""
    verdict: Verdict
    """On the merged model."""


@dataclass(frozen=True)
class HumanVerdict:
    """What a file of ratings says, un-blinded."""

    sheet: str
    criteria: tuple[CriterionVerdict, ...]
    errors: tuple[str, ...]
    """Prompts and ratings that could not be counted, each with its reason."""


def write_blind_sheet(
    folder: Path, pairs: Sequence[Pair], rules: ScoringRules, seed: int = 0
) -> tuple[Path, Path]:
    """Write `blind_sheet.html` and `key.json`.

    Args:
        folder: Where to; exists.
        pairs: At most one per prompt.
        rules: Their criteria are what is asked about each pair.
        seed: Decides who is A.

    Returns:
        The two paths. Hand out the first, keep the second.

    Raises:
        ValueError: A prompt id occurs twice, or its kind is none of the rules'.
    """
    _require_fitting(pairs, rules)
    key = _make_key(pairs, tuple(rules.criteria), seed)
    sheet_path, key_path = folder / SHEET_FILE, folder / KEY_FILE
    write_whole(sheet_path, _render(pairs, rules, key))
    write_whole(key_path, json.dumps(asdict(key), ensure_ascii=False, indent=1) + "\n")
    return sheet_path, key_path


def read_key(path: Path) -> BlindKey:
    """Read `key.json` back."""
    key = json.loads(path.read_text(encoding="utf-8"))
    left_out = key.get("left_out", ())  # older keys have none
    return BlindKey(
        key["sheet"], tuple(key["criteria"]), key["merged_is"], tuple(key["equal"]), tuple(left_out)
    )


def read_ratings(path: Path, keys: Sequence[BlindKey], *, confidence: float = 0.95) -> HumanVerdict:
    """Un-blind a file that a sheet saved.

    Args:
        path: `ratings.json`.
        keys: Keys of the sheets that may have saved it.
        confidence: From which on a preference counts as shown.

    Returns:
        Wins, ties and losses of the merged model. A rating that makes no sense is not counted and named in `errors`.

    Raises:
        ValueError: The file is no ratings file, or of a sheet of which no key was given; the message says which.
    """
    sheet, ratings = _read_file(path)
    found = {key.sheet: key for key in keys}
    if sheet not in found:
        known = ", ".join(found) or "none"
        raise ValueError(
            f"{path} was saved by sheet {sheet}, but keys were given for: {known}. Is it an old sheet's?"
        )
    key = found[sheet]
    valid, errors = _valid_ratings(ratings, key)
    counts = {
        criterion: _count([rated[criterion] for rated in valid.values() if criterion in rated], key)
        for criterion in key.criteria
    }
    adjusted = holm([sign_test(wins, losses) for wins, _, losses, _ in counts.values()])
    verdicts = [
        CriterionVerdict(
            name, *counts[name], p_value, verdict(counts[name][2] - counts[name][0], p_value, confidence)
        )
        for name, p_value in zip(counts, adjusted, strict=True)
    ]
    left_out = [f"not on the sheet: {each}" for each in key.left_out]
    return HumanVerdict(sheet, tuple(verdicts), (*left_out, *errors))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of "a win is as likely as a loss"; 1 when there is neither."""
    rarer, total = min(wins, losses), wins + losses
    as_rare = sum(math.comb(total, count) for count in range(rarer + 1))
    return min(1.0, 2 * as_rare / 2**total)


def _require_fitting(pairs: Sequence[Pair], rules: ScoringRules) -> None:
    seen: set[str] = set()
    for pair in pairs:
        if pair.prompt_id in seen:
            raise ValueError(f"prompt {pair.prompt_id} occurs twice: give one pair per prompt")
        if pair.kind not in rules.kinds:
            raise ValueError(
                f"prompt {pair.prompt_id} is of kind {pair.kind!r}, choose from {', '.join(rules.kinds)}"
            )
        seen.add(pair.prompt_id)


def _make_key(pairs: Sequence[Pair], criteria: tuple[str, ...], seed: int) -> BlindKey:
    whole = [pair for pair in pairs if not pair.problem]
    shown = [pair.prompt_id for pair in whole if pair.base != pair.merged]
    chance = random.Random(seed)
    odd_one = chance.choice(SIDES)
    sides = [*SIDES * (len(shown) // 2), *[odd_one] * (len(shown) % 2)]
    chance.shuffle(sides)
    content = json.dumps([seed, criteria, [asdict(pair) for pair in pairs]])
    return BlindKey(
        sheet=hashlib.blake2b(content.encode(), digest_size=ID_BYTES).hexdigest(),
        criteria=criteria,
        merged_is=dict(zip(shown, sides, strict=True)),
        equal=tuple(pair.prompt_id for pair in whole if pair.base == pair.merged),
        left_out=tuple(f"{pair.prompt_id}: {pair.problem}" for pair in pairs if pair.problem),
    )


def _render(pairs: Sequence[Pair], rules: ScoringRules, key: BlindKey) -> str:
    script = (HERE / SCRIPT).read_text(encoding="utf-8")
    items = []
    for pair in pairs:
        if pair.prompt_id in key.merged_is:
            texts = (
                (pair.merged, pair.base) if key.merged_is[pair.prompt_id] == "A" else (pair.base, pair.merged)
            )
            item = {"id": pair.prompt_id, "kind": rules.kinds[pair.kind].title, "prompt": pair.prompt}
            shown = [text.strip("\n").rstrip() for text in texts]
            items.append(item | {"texts": dict(zip(SIDES, shown, strict=True))})
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            sheet=key.sheet,
            items=items,
            criteria=rules.criteria,
            equal=len(key.equal),
            left_out=key.left_out,
            script=Markup(script),  # ours; what the models wrote is escaped
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _read_file(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Sheet id and ratings."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    is_object = isinstance(content, dict) and isinstance(content.get("ratings"), dict)
    if not is_object or not isinstance(content.get("sheet"), str):
        raise ValueError(
            f"{path} needs the keys sheet and ratings: save it with the button of the blind sheet"
        )
    return content["sheet"], content["ratings"]


def _valid_ratings(
    ratings: Mapping[str, Any], key: BlindKey
) -> tuple[dict[str, dict[str, tuple[str, Choice]]], list[str]]:
    """By prompt and criterion, (prompt id, choice); and what is wrong with the others."""
    valid: dict[str, dict[str, tuple[str, Choice]]] = {}
    errors = []
    for prompt_id, rated in ratings.items():
        if prompt_id not in key.merged_is:
            errors.append(f"{prompt_id}: the sheet has no such prompt")
        elif not isinstance(rated, dict):
            errors.append(f"{prompt_id}: {rated!r} is not a choice per criterion")
        else:
            valid[prompt_id] = {}
            for criterion, choice in rated.items():
                if criterion not in key.criteria:
                    errors.append(f"{prompt_id}, {criterion}: the sheet has no such criterion")
                elif not _is_choice(choice):
                    errors.append(f"{prompt_id}, {criterion}: {choice!r} is not A, B or tie")
                else:
                    valid[prompt_id][criterion] = (prompt_id, choice)
    return valid, errors


def _is_choice(value: object) -> TypeGuard[Choice]:
    return isinstance(value, str) and value in CHOICES


def _count(choices: Sequence[tuple[str, Choice]], key: BlindKey) -> tuple[int, int, int, int]:
    """Wins, ties and losses of the merged model, and prompts without a choice."""
    ties = sum(choice == "tie" for _, choice in choices)
    wins = sum(choice == key.merged_is[prompt_id] for prompt_id, choice in choices)
    unrated = len(key.merged_is) - len(choices)
    return wins, ties + len(key.equal), len(choices) - ties - wins, unrated
