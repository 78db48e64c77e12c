"""How close written texts come to references: BLEU, chrF and ROUGE, in the forms that suit Korean.

BLEU and chrF are sacreBLEU's (Post, "A Call for Clarity in Reporting BLEU Scores", 2018), over the whole set of
texts: BLEU on the morphemes of mecab-ko and on characters, chrF on characters. ROUGE (`rouge`) is the mean over the
texts of the F1 with the best reference, on the morphemes of Kiwi and on characters. Every figure has a signature:
two figures compare only if theirs are equal.

Korean writes particles and endings onto the word (학교에, 학교가), so words as tokens would miss most of what two
sentences share. White space is no character, for Korean spacing is free in many places. Texts are brought to NFC
first: 한 may arrive as one character or as three. BLEU leaves out the n-grams that no written text is long enough for
(`eff:yes`); where some text has four tokens this changes nothing.

Price: loading Kiwi (`morphemes`), once in a process and only when texts are scored; then 4,000 characters take about
0.1 CPU-seconds.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from statistics import fmean

import kiwipiepy
import kiwipiepy_model
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from yunmin_assets.evaluation.morphemes import kiwi
from yunmin_assets.evaluation.rouge import rouge_l, rouge_n

PERCENT = 100.0
MECAB, CHARACTERS = "ko-mecab", "char"
"""sacreBLEU's names of its tokenizers."""
ROUGE_SIGNATURE = "f1|best reference, mean of texts|case:mixed|form:NFC"
ITEMS_NAMED = 3
"""Items left out that an error names."""

Tokens = Sequence[str]
Similarity = Callable[[Tokens, Tokens], float]


@dataclass(frozen=True)
class LeftOut:
    """A text that was not scored: its place among the texts, from 0, and why."""

    item: int
    reason: str


@dataclass(frozen=True)
class TextScores:
    """Scores from 0 to 100 of a set of written texts.

    Attributes:
        bleu_morpheme, bleu_character, chrf: of the whole set.
        rouge_1_morpheme, rouge_2_morpheme, rouge_l_morpheme, rouge_l_character: means over the texts.
        signatures: how the figures were computed, by `bleu_morpheme`, `bleu_character`, `chrf`, `rouge_morpheme`
            (three figures) and `rouge_character`.
        items: texts scored, the empty ones among them.
        empty: places of texts in which nothing is written: 0 in every mean, and words missing in BLEU and chrF.
        left_out: texts that could not be scored. They are in no figure.
    """

    bleu_morpheme: float
    bleu_character: float
    chrf: float
    rouge_1_morpheme: float
    rouge_2_morpheme: float
    rouge_l_morpheme: float
    rouge_l_character: float
    signatures: dict[str, str]
    items: int
    empty: tuple[int, ...]
    left_out: tuple[LeftOut, ...]


def score_texts(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> TextScores:
    """Score written texts against their references.

    Args:
        hypotheses: what was written. An empty text scores 0 and is counted.
        references: for each text one or more references; their number may differ. A text without any, or with an
            empty one, is left out.

    Raises:
        ValueError: the lists differ in length, or no text has a reference.
        TypeError: the references of a text are one string.

    Example:
        >>> scores = score_texts(["나는 학교에 갔다."], [["나는 집에 갔다."]])
        >>> round(scores.rouge_1_morpheme, 1)
        87.5
    """
    left_out = _find_unusable(hypotheses, references)
    unusable = {each.item for each in left_out}
    places = [place for place in range(len(hypotheses)) if place not in unusable]
    if not places:
        named = "; ".join(f"text {each.item}: {each.reason}" for each in left_out[:ITEMS_NAMED])
        raise ValueError(f"none of {len(hypotheses)} texts has a reference to be scored against ({named})")
    written = [_as_compared(hypotheses[place]) for place in places]
    expected = [[_as_compared(reference) for reference in references[place]] for place in places]
    figures, signatures = _sacrebleu_figures(written, expected)
    return TextScores(
        **figures,
        **_rouge_figures(written, expected),
        signatures=signatures | _rouge_signatures(),
        items=len(places),
        empty=tuple(place for place, text in zip(places, written, strict=True) if _is_empty(text)),
        left_out=left_out,
    )


def _find_unusable(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[LeftOut, ...]:
    if len(hypotheses) != len(references):
        raise ValueError(
            f"{len(hypotheses)} texts but references for {len(references)}: give each text a list of references, "
            "an empty one where there is none"
        )
    left_out = []
    for item, expected in enumerate(references):
        if isinstance(expected, str):
            raise TypeError(f"the references of text {item} are one string: put it into a list")
        if not expected:
            left_out.append(LeftOut(item, "no reference"))
        elif any(_is_empty(reference) for reference in expected):
            left_out.append(LeftOut(item, "a reference is empty"))
    return tuple(left_out)


def _as_compared(text: str) -> str:
    """In NFC, and without NUL: mecab reads nothing behind one."""
    return unicodedata.normalize("NFC", text).replace("\0", " ")


def _is_empty(text: str) -> bool:
    return not _as_compared(text).strip()


def _sacrebleu_figures(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, str]]:
    """Figures and signatures by field. sacreBLEU wants first references, second ones … with None for a missing one."""
    streams = list(zip_longest(*references))
    figures, signatures = {}, {}
    metrics = {"bleu_morpheme": _bleu(MECAB), "bleu_character": _bleu(CHARACTERS), "chrf": CHRF()}
    for field, metric in metrics.items():
        score = metric.corpus_score(hypotheses, streams).score
        figures[field] = min(score, PERCENT)  # sacreBLEU's logarithms end a hair above 100
        signatures[field] = metric.get_signature().format()
    return figures, signatures


@cache
def _bleu(tokenizer: str) -> BLEU:
    return BLEU(tokenize=tokenizer, effective_order=True)


def _rouge_figures(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    def mean_of_best(tokens: Callable[[str], Tokens], *similarities: Similarity) -> list[float]:
        pairs = [
            (tokens(written), [tokens(text) for text in expected])
            for written, expected in zip(hypotheses, references, strict=True)
        ]
        return [
            PERCENT * fmean(max(similarity(ours, each) for each in theirs) for ours, theirs in pairs)
            for similarity in similarities
        ]

    rouge_1, rouge_2, rouge_l_morpheme = mean_of_best(
        morphemes,
        lambda ours, theirs: rouge_n(ours, theirs, 1),
        lambda ours, theirs: rouge_n(ours, theirs, 2),
        rouge_l,
    )
    (rouge_l_character,) = mean_of_best(characters, rouge_l)
    return {
        "rouge_1_morpheme": rouge_1,
        "rouge_2_morpheme": rouge_2,
        "rouge_l_morpheme": rouge_l_morpheme,
        "rouge_l_character": rouge_l_character,
    }


def _rouge_signatures() -> dict[str, str]:
    analyser = f"kiwi-{kiwipiepy.__version__}-{kiwi().model_type}-{kiwipiepy_model.__version__}"
    return {
        "rouge_morpheme": f"{ROUGE_SIGNATURE}|tok:{analyser}",
        "rouge_character": f"{ROUGE_SIGNATURE}|tok:char|space:no",
    }


def morphemes(text: str) -> list[str]:
    """The forms of a text's morphemes, marks and emoji among them, as Kiwi cuts it.

    Example:
        >>> morphemes("학교에 갔다.")
        ['학교', '에', '가', '었', '다', '.']
    """
    return [token.form for token in kiwi().tokenize(text)]


def characters(text: str) -> list[str]:
    """The characters of a text that are no white space."""
    return [character for character in text if not character.isspace()]
