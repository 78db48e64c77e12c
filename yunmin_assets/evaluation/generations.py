"""What models write after the prompts: greedy and sampled, scored by rules and, where there is a reference, against it.

Nothing holds a model back from repeating itself here: a loop is what the rules are to find.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import Field, ValidationError

from yunmin_assets.config_model import ConfigModel
from yunmin_assets.evaluation.blind_sheet import Pair
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.kept_results import Keep, Rows, keep_nothing
from yunmin_assets.evaluation.model import BASE, MERGED, CriterionRow, Generation, TextScoreRow
from yunmin_assets.evaluation.scoring_config import ScoringRules
from yunmin_assets.evaluation.scoring_rules import (
    NOTHING_WRITTEN,
    CriterionComparison,
    RuleScores,
    compare_criteria,
    score_generations,
)
from yunmin_assets.evaluation.text_metrics import score_texts
from yunmin_assets.evaluation.text_rules import Answer
from yunmin_assets.language_model.generation import GREEDY, Continuation, Decoding, continue_prompts
from yunmin_assets.progress import Log, silent

GREEDILY, SAMPLED = "greedy", "sampled"
SOMETHING = r"\S"
"""A text that is not only white space."""


class Prompt(ConfigModel):
    """One line of the prompts file."""

    id: str = Field(pattern=SOMETHING)
    kind: str = Field(pattern=SOMETHING)
    prompt: str = Field(pattern=SOMETHING)
    domain: str | None = None
    reference: str | None = Field(default=None, pattern=SOMETHING)
    """A good answer, where there is one: of a translation or a summary."""


Written = Mapping[str, Mapping[str, Sequence[Continuation]]]
"""By decoding, by model: a continuation per prompt."""


def read_prompts(path: Path) -> list[Prompt]:
    """Read the prompts file.

    Raises:
        ValueError: a line is no prompt, or an id is there twice; names file, line and field.
    """
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            prompt = Prompt.model_validate_json(line)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, each['loc']))} {each['msg']}" for each in error.errors())
            raise ValueError(
                f"{path}, line {number}: needs a JSON object with id, kind and prompt ({wrong.strip()})"
            ) from error
        if prompt.id in prompts:
            raise ValueError(f"{path}, line {number}: the id {prompt.id!r} is there twice; give it another")
        prompts[prompt.id] = prompt
    if not prompts:
        raise ValueError(f"{path} holds no prompt: add one JSON object with id, kind and prompt per line")
    return list(prompts.values())


def write_continuations(
    models: Mapping[str, Path],
    prompts: Sequence[Prompt],
    config: EvaluationConfig,
    *,
    keep: Keep = keep_nothing,
    log: Log = silent,
) -> Written:
    """Let every model continue every prompt, greedily and sampled; `keep` takes the texts by model and decoding."""
    texts = [prompt.prompt for prompt in prompts]
    sampling = Decoding(temperature=config.temperature, top_p=config.top_p, seed=config.seed)

    def write(model: str, name: str, decoding: Decoding) -> Rows:
        written = continue_prompts(
            models[model],
            texts,
            config.max_new_tokens,
            decoding,
            log=lambda line: log(f"{model}, {name}: {line}"),
        )
        return [asdict(each) for each in written]

    def continued(model: str, name: str, decoding: Decoding) -> list[Continuation]:
        rows = keep(("texts", model, name), lambda: write(model, name, decoding))
        return [Continuation(**row) for row in rows]

    return {
        name: {model: continued(model, name, decoding) for model in models}
        for name, decoding in ((GREEDILY, GREEDY), (SAMPLED, sampling))
    }


def side_by_side(prompts: Sequence[Prompt], written: Written) -> list[Generation]:
    """Greedy and sampled continuations of each prompt, for the report."""
    return [
        Generation(
            prompt_id=prompt.id,
            kind=prompt.kind,
            prompt=prompt.prompt,
            domain=prompt.domain,
            reference=prompt.reference,
            continuations={model: _shown(texts[place]) for model, texts in written[GREEDILY].items()},
            sampled={model: _shown(texts[place]) for model, texts in written[SAMPLED].items()},
        )
        for place, prompt in enumerate(prompts)
    ]


def blind_pairs(prompts: Sequence[Prompt], written: Written) -> list[Pair]:
    """What a person scores blind: the greedy answers of base and merged model; a broken one is no answer."""
    answers = zip(prompts, written[GREEDILY][BASE], written[GREEDILY][MERGED], strict=True)
    return [
        Pair(
            prompt.id,
            prompt.kind,
            prompt.prompt,
            _answer(base),
            _answer(merged),
            problem=base.problem or merged.problem,
        )
        for prompt, base, merged in answers
    ]


def judge_by_rules(
    prompts: Sequence[Prompt], written: Written, rules: ScoringRules, config: EvaluationConfig
) -> list[CriterionRow]:
    """Every model against the base on every criterion, for both decodings."""
    rows = []
    for decoding, by_model in written.items():
        scores = {
            model: score_generations(_answers(prompts, texts), rules) for model, texts in by_model.items()
        }
        rows += [
            _criterion_row(compared, model, decoding, rules, scores[model])
            for model in by_model
            if model != BASE
            for compared in compare_criteria(
                scores[BASE],
                scores[model],
                samples=config.bootstrap_samples,
                confidence=config.confidence,
                seed=config.seed,
            )
        ]
    return rows


def score_against_references(prompts: Sequence[Prompt], written: Written) -> list[TextScoreRow]:
    """BLEU, chrF and ROUGE of the greedy answers to prompts with a reference; none when no prompt has one."""
    references = {place: text for place, prompt in enumerate(prompts) if (text := prompt.reference)}
    if not references:
        return []
    rows = []
    for model, texts in written[GREEDILY].items():
        answers = [(prompts[place].id, texts[place]) for place in references]
        scores = score_texts([_answer(text) for _, text in answers], [[each] for each in references.values()])
        silent_ones = [answers[item] for item in scores.empty]
        rows.append(
            TextScoreRow(
                model=model,
                texts=scores.items,
                not_written=tuple(f"{name}: {text.problem or NOTHING_WRITTEN}" for name, text in silent_ones),
                bleu_morpheme=scores.bleu_morpheme,
                bleu_character=scores.bleu_character,
                chrf=scores.chrf,
                rouge_1_morpheme=scores.rouge_1_morpheme,
                rouge_2_morpheme=scores.rouge_2_morpheme,
                rouge_l_morpheme=scores.rouge_l_morpheme,
                rouge_l_character=scores.rouge_l_character,
                signatures=dict(scores.signatures),
            )
        )
    return rows


def _answer(continuation: Continuation) -> str:
    """The text; nothing where the model broke off, however much it had written."""
    return "" if continuation.problem else continuation.text


def _answers(prompts: Sequence[Prompt], texts: Sequence[Continuation]) -> list[Answer]:
    return [
        Answer(prompt.id, prompt.kind, prompt.prompt, text.text, text.ended, prompt.reference, text.problem)
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def _criterion_row(
    compared: CriterionComparison,
    model: str,
    decoding: str,
    rules: ScoringRules,
    scores: Sequence[RuleScores],
) -> CriterionRow:
    return CriterionRow(
        criterion=compared.criterion,
        title=rules.criteria[compared.criterion].title,
        decoding=decoding,
        model=model,
        prompts=compared.prompts,
        nothing_written=sum(each.problem is not None for each in scores),
        base=compared.base,
        score=compared.model,
        difference=compared.difference,
        low=compared.low,
        high=compared.high,
        p_value=compared.p_value,
        verdict=compared.verdict,
    )


def _shown(continuation: Continuation) -> str:
    return f"({continuation.problem})" if continuation.problem else continuation.text
