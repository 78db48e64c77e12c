"""What can be computed about a generated text: one measure per rule, each with a reason in words.

The measures of broken characters and fluency were chosen on real text. In nine domains of Korean, at most 0.08 % of
the characters are none of those that `_is_broken` counts. Kiwi's language model gives 150 characters of human text
−4 to −6 nats per morpheme (religious text −6.1), their shuffled words −6.5, the word salad of a model with a million
parameters −6.6 to −7.9. Of the nouns of its first 50 characters, the next 150 of a human text repeat 12 to 57 % in the
median of a domain, those of another text 0 % (dialogue 33 %). Of its runs of 8 characters, 0 to 15 % stand in one of 39
other texts of its domain.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from yunmin_assets.evaluation.code_lines import share_of_code
from yunmin_assets.evaluation.morphemes import kiwi
from yunmin_assets.evaluation.scoring_config import Format, Kind, RuleName

REPEATED_RUN = 6
"""Characters: two or three Korean words. Shorter runs recur in good text, longer ones miss short loops."""
COPIED_RUN = 8
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LATIN_1 = range(0x80, 0x100)
KS_X_1001_ROWS, KS_X_1001_CELLS = range(0xB0, 0xC9), range(0xA1, 0xFF)
COMMON_SYLLABLES = frozenset(
    bytes((row, cell)).decode("euc_kr") for row in KS_X_1001_ROWS for cell in KS_X_1001_CELLS
)
"""The 2,350 Hangul syllables of KS X 1001. Bytes read in a wrong encoding give the other 8,822."""
BROKEN_CATEGORIES = ("Cc", "Cn", "Co", "Cs")
NOUNS = ("NNG", "NNP", "SL", "XR")
"""Kiwi's tags of common nouns, names, foreign words and roots."""

NUMBER = re.compile(r"\d+")
SENTENCE_END = re.compile(r"[.!?…。]+[\"'”’」』)\]]*(?=\s|$)")
POLITE = re.compile(r"(요|니다|니까|시오|죠)$")
PLAIN = re.compile(r"([다냐자라야어아해지네까])$")
QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
HANGUL_SYLLABLE = re.compile(r"[가-힣]")


@dataclass(frozen=True)
class Answer:
    """What a model wrote after one prompt, with all that the rules look at."""

    prompt_id: str
    kind: str
    prompt: str
    text: str
    ended: bool
    """The model ended it; else the limit on new tokens cut it."""
    reference: str | None = None
    problem: str | None = None
    """Why there is no text of the model's: its logits were not numbers."""


@dataclass(frozen=True)
class Measure:
    """What one rule found in a text."""

    value: float
    reason: str


def written(answer: Answer) -> str:
    """What is judged: the text without white space around it, and without a character that the limit cut in two."""
    text = answer.text.strip()
    return text if answer.ended else text.removesuffix(REPLACEMENT).strip()


def measure(answer: Answer, expected: Kind) -> dict[RuleName, Measure]:
    """The measures of an answer that is not empty; rules with nothing to say about it are absent."""
    text = written(answer)
    wants_hangul = answer.reference is None or _is_mostly_hangul(answer.reference)
    rules: dict[RuleName, Callable[[], Measure | None]] = {
        "intact": lambda: _intact(_without_rare_names(text) if expected.is_code else text),
        "hangul": lambda: _hangul(text, wants_hangul),
        "fluency": lambda: _fluency(text) if wants_hangul else None,
        "repetition": lambda: _repetition(text),
        "parroting": lambda: _parroting(text, answer.prompt),
        "topic": lambda: _topic(text, answer.prompt),
        "register": lambda: _register(text) if wants_hangul else None,
        "length": lambda: _length(text, expected.characters, answer.reference),
        "format": lambda: _format(text, answer.prompt, expected.format) if expected.format else None,
        "code": lambda: _code(answer) if expected.is_code else None,
        "stop": lambda: _stop(text, answer.ended),
    }
    applied = {name: rule() for name, rule in rules.items() if name not in expected.leave_out}
    return {name: found for name, found in applied.items() if found is not None}


def measure_sameness(answers: Sequence[Answer]) -> list[Measure | None]:
    """How much of each answer stands in the answers to other prompts, too; nothing to say where only one has an answer.

    Numbers count as one, white space as one blank. A text shorter than a run is the same only as a whole.
    """
    runs = [_runs(" ".join(NUMBER.sub("0", written(each)).split()), COPIED_RUN) for each in answers]
    prompts_with: dict[str, set[str]] = defaultdict(set)
    for answer, some in zip(answers, runs, strict=True):
        for run in some:
            prompts_with[run].add(answer.prompt_id)
    if len({answer.prompt_id for answer in answers if written(answer)}) < 2:
        return [None] * len(answers)
    shares = [sum(len(prompts_with[run]) > 1 for run in some) / len(some) for some in runs]
    return [
        Measure(
            share, f"{share:.0%} of the runs of {COPIED_RUN} characters stand in answers to other prompts"
        )
        for share in shares
    ]


def _without_rare_names(text: str) -> str:
    """Code may name any syllable in quotes: '힣' is the last one, and no Korean word has it."""
    return QUOTED.sub(lambda quoted: HANGUL_SYLLABLE.sub("가", quoted[0]), text)


def _intact(text: str) -> Measure:
    visible = [character for character in text if not character.isspace()]
    share = sum(map(_is_broken, visible)) / len(visible)
    return Measure(share, f"{share:.0%} of the characters are broken")


def _is_broken(character: str) -> bool:
    if "가" <= character <= "힣":
        return character not in COMMON_SYLLABLES
    if ord(character) in LATIN_1:
        return character.isalpha() or unicodedata.category(character) == "Cc"
    return character == REPLACEMENT or unicodedata.category(character) in BROKEN_CATEGORIES


def _is_hangul(character: str) -> bool:
    return "가" <= character <= "힣" or "ㄱ" <= character <= "ㅣ"


def _is_mostly_hangul(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    return 2 * sum(map(_is_hangul, letters)) >= len(letters)


def _hangul(text: str, is_wanted: bool) -> Measure:
    """Of all characters, not of the letters alone: "제1조 ( (" has no letter that is not Hangul."""
    visible = [character for character in text if not character.isspace()]
    if not is_wanted:
        share = sum(character.isalpha() and not _is_hangul(character) for character in visible) / len(visible)
        return Measure(share, f"{share:.0%} of the characters are letters as in the reference, not Hangul")
    share = sum(map(_is_hangul, visible)) / len(visible)
    return Measure(share, f"{share:.0%} of the characters are Hangul")


def _fluency(text: str) -> Measure | None:
    tokens, score = kiwi().analyze(text)[0]
    if not tokens:
        return None
    return Measure(score / len(tokens), f"{score / len(tokens):.1f} nats per morpheme")


def _runs(text: str, length: int) -> list[str]:
    """All runs of characters, or the text itself when it is shorter."""
    return [text[place : place + length] for place in range(max(1, len(text) - length + 1))]


def _repetition(text: str) -> Measure:
    """Numbers count as one: a loop that only counts up is a loop."""
    runs = _runs(NUMBER.sub("0", text), REPEATED_RUN)
    share = len(set(runs)) / len(runs)
    return Measure(share, f"{share:.0%} of the runs of {REPEATED_RUN} characters are different")


def _parroting(text: str, prompt: str) -> Measure:
    runs = _runs(text, COPIED_RUN)
    share = sum(run in prompt for run in runs) / len(runs) if len(text) >= COPIED_RUN else 0.0
    return Measure(share, f"{share:.0%} of the runs of {COPIED_RUN} characters stand in the prompt")


def _nouns(text: str) -> set[str]:
    return {token.form for token in kiwi().tokenize(text) if token.tag in NOUNS}


def _topic(text: str, prompt: str) -> Measure | None:
    wanted = _nouns(prompt)
    if not wanted:
        return None
    found = sorted(wanted & _nouns(text))
    named = f": {', '.join(found)}" if found else ""
    return Measure(
        len(found) / len(wanted), f"{len(found)} of the prompt's {len(wanted)} nouns come back{named}"
    )


def _sentences(text: str) -> list[str]:
    parts = [part for line in text.splitlines() for part in SENTENCE_END.split(line)]
    return [part.strip() for part in parts if part.strip()]


def _register(text: str) -> Measure | None:
    levels = Counter(
        "polite" if POLITE.search(sentence) else "plain"
        for sentence in _sentences(text)
        if POLITE.search(sentence) or PLAIN.search(sentence)
    )
    if levels.total() < 2:
        return None
    level, count = levels.most_common(1)[0]
    return Measure(count / levels.total(), f"{count} of {levels.total()} sentences are {level}")


def _length(text: str, characters: int, reference: str | None) -> Measure:
    written = _size(text)
    if reference is None:
        return Measure(
            min(1.0, written / characters), f"{written} characters, at least {characters} expected"
        )
    ratio = written / _size(reference)
    return Measure(min(ratio, 1 / ratio), f"{written} characters, the reference has {_size(reference)}")


def _size(text: str) -> int:
    """Characters without white space, at least 1."""
    return max(1, sum(not character.isspace() for character in text))


def _format(text: str, prompt: str, form: Format) -> Measure | None:
    lines = [line for line in text.splitlines() if line.strip()]
    sentences = len(_sentences(text))
    found: Sequence[tuple[float | None, float, int, str]] = (
        (form.lines_at_least, len(lines), 1, "lines"),
        (form.lines_at_most, len(lines), -1, "lines"),
        (form.line_characters_at_most, max(map(len, lines), default=0), -1, "characters in the longest line"),
        (form.sentences_at_least, sentences, 1, "sentences"),
        (form.sentences_at_most, sentences, -1, "sentences"),
        (form.share_of_prompt_at_most, round(_size(text) / _size(prompt), 2), -1, "of the prompt's length"),
    )
    demands = [(wanted, value, sign, what) for wanted, value, sign, what in found if wanted is not None]
    if not demands:
        return None
    unmet = [
        f"{value} {what}, wanted at {'least' if sign > 0 else 'most'} {wanted}"
        for wanted, value, sign, what in demands
        if sign * value < sign * wanted
    ]
    return Measure(1 - len(unmet) / len(demands), "; ".join(unmet) or "as wanted")


def _code(answer: Answer) -> Measure:
    text = answer.text if answer.ended else answer.text.removesuffix(REPLACEMENT)
    share = share_of_code(answer.prompt, text, answer.ended)
    return Measure(share, f"{share:.0%} of the characters stand on lines of code")


def _stop(text: str, ended: bool) -> Measure:
    if ended:
        return Measure(1.0, "ended by itself")
    sentence_ends = [match.end() for match in SENTENCE_END.finditer(text)]
    if sentence_ends and sentence_ends[-1] == len(text):
        return Measure(0.5, "cut after a sentence")
    return Measure(0.0, "cut in the middle")
