"""Generate continuations in batches; what a prompt gets does not depend on the prompts beside it.

- Prompts of unequal length are padded on the left *with* a mask: Mamba carries a state from left to right, so
  padding that is not masked changes the logits by 2.5–3.0. Every prompt starts with the end-of-text token, as
  every document did in training. A prompt that spells that token out gets its characters, as a document does.
- Sampling draws one number per token from a stream of the prompt's own, seeded by the seed and the prompt's
  text, and takes the token at that place of the cumulative distribution (inverse transform). Logits of a batch
  and of a prompt alone differ in their last bits only, which changes about one draw in a million. `top_p` is
  nucleus sampling (arXiv 1904.09751).
- Logits that are not numbers end their own row, and the continuation says so; the other rows go on.
- The `generation_config.json` beside a model has no say: two models are always asked in the same way.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.tokenizer import load_tokenizer
from yunmin_assets.progress import Log, Progress, silent

PROMPTS_PER_BATCH = 16
CHARACTERS_SHOWN = 30
"""Of a prompt, in a message about it."""


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after one prompt."""

    text: str
    """Without the prompt and the end-of-text token."""
    n_tokens: int
    """Without the end-of-text token."""
    ended: bool
    """The model wrote the end-of-text token by itself; else the limit cut the text, or a problem did."""
    problem: str | None = None
    """Why the text is not the model's answer: its logits were not numbers."""


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen from the logits.

    Raises:
        ValueError: A number is out of its range; the message names it.
    """

    temperature: float = 0.0
    """0 is greedy; above, sampled."""
    top_p: float = 1.0
    """Sample among the most probable tokens that together reach this probability."""
    seed: int = 0
    """Has an effect on sampling only."""
    no_repeat_ngram: int = 0
    """Above 0, no run of this many tokens occurs twice (prompt included). It hides the loops of small models:
    not for texts whose repetition is to be measured."""

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf):
            raise ValueError(f"temperature is {self.temperature}, must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, must be above 0 and at most 1")
        if self.no_repeat_ngram < 0:
            raise ValueError(f"no_repeat_ngram is {self.no_repeat_ngram}, must be 0 (off) or above")


GREEDY = Decoding()


def generate(
    model_dir: Path,
    prompts: Sequence[str],
    max_new_tokens: int = 48,
    seed: int = 0,
    *,
    temperature: float = 0.0,
    no_repeat_ngram: int = 0,
    log: Log = silent,
) -> list[str]:
    """The texts of `continue_prompts` alone.

    Raises:
        ValueError: The logits after a prompt were not numbers; the message says which prompt.
    """
    decoding = Decoding(temperature, seed=seed, no_repeat_ngram=no_repeat_ngram)
    continuations = continue_prompts(model_dir, prompts, max_new_tokens, decoding, log=log)
    for prompt, continuation in zip(prompts, continuations, strict=True):
        if continuation.problem:
            raise ValueError(f"{model_dir} after the prompt {_shown(prompt)}: {continuation.problem}")
    return [continuation.text for continuation in continuations]


def continue_prompts(
    model_dir: Path,
    prompts: Sequence[str],
    max_new_tokens: int = 48,
    decoding: Decoding = GREEDY,
    *,
    log: Log = silent,
) -> list[Continuation]:
    """Continue each prompt.

    Args:
        model_dir: A Hugging Face folder with model and tokenizer.
        prompts: May be empty strings.
        max_new_tokens: Generation stops there or at the end-of-text token.
        decoding: Greedy or sampled. The global random state has no part in it.
        log: Progress, and a line that names the prompts after which nothing was written or a problem met.

    Returns:
        One continuation per prompt, in order.
    """
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)
    model.generation_config = GenerationConfig()
    continuations: list[Continuation] = []
    with Progress(log, "prompts", total=len(prompts)) as progress:
        for first in range(0, len(prompts), PROMPTS_PER_BATCH):
            some = prompts[first : first + PROMPTS_PER_BATCH]
            continuations += _continue_batch(model, tokenizer, some, max_new_tokens, decoding)
            progress.advance(len(some))
    _log_silence(prompts, continuations, log)
    return continuations


@torch.inference_mode()
def _continue_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    decoding: Decoding,
) -> list[Continuation]:
    eos_id = tokenizer.eos_token_id
    prompt_ids = tokenizer(list(prompts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    sequences = [[eos_id, *ids] for ids in prompt_ids]
    longest = max(map(len, sequences))
    input_ids = torch.full((len(sequences), longest), eos_id)
    mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, longest - len(sequence) :] = torch.tensor(sequence)
        mask[row, longest - len(sequence) :] = 1
    choice = _NextToken(prompts, [longest - len(sequence) + 1 for sequence in sequences], eos_id, decoding)
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,  # `choice` leaves one token to choose from
        eos_token_id=eos_id,
        pad_token_id=eos_id,
        logits_processor=LogitsProcessorList([choice]),
    )
    written = output[:, longest:].tolist()
    return [_continuation(tokenizer, ids, choice.problems.get(row)) for row, ids in enumerate(written)]


def _continuation(tokenizer: PreTrainedTokenizerBase, ids: list[int], problem: str | None) -> Continuation:
    """`ids` of a row that ended are filled up with the end-of-text token."""
    has_end = tokenizer.eos_token_id in ids
    n_tokens = ids.index(tokenizer.eos_token_id) if has_end else len(ids)
    text = tokenizer.decode(ids[:n_tokens], skip_special_tokens=True)
    return Continuation(text, n_tokens, has_end and problem is None, problem)


class _NextToken(LogitsProcessor):
    """Chooses each row's next token, and leaves no other to what follows. Made for one batch."""

    def __init__(self, prompts: Sequence[str], starts: Sequence[int], eos_id: int, decoding: Decoding):
        self.problems: dict[int, str] = {}
        self._starts, self._eos_id, self._decoding = starts, eos_id, decoding
        self._streams = [random.Random(f"{decoding.seed} {prompt}") for prompt in prompts]
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores of 0 for the tokens chosen and −inf for all others: [rows, vocabulary]."""
        self._step += 1
        scores = self._without_problems(scores)
        if self._decoding.no_repeat_ngram:
            for row, ids in enumerate(input_ids.tolist()):
                scores[row, self._would_repeat(ids[self._starts[row] :])] = -math.inf
        chosen = self._drawn(scores) if self._decoding.temperature else scores.argmax(dim=-1)
        return torch.full_like(scores, -math.inf).scatter_(1, chosen[:, None], 0.0)

    def _without_problems(self, scores: Tensor) -> Tensor:
        """Note the rows that hold no usable logits; they end here."""
        usable = (scores < math.inf).all(dim=-1) & (scores > -math.inf).any(dim=-1)  # NaN is neither
        scores = scores.clone()
        for row in (~usable).nonzero()[:, 0].tolist():
            self.problems.setdefault(row, f"the logits of token {self._step} are not finite numbers")
            scores[row] = -math.inf
            scores[row, self._eos_id] = 0.0
        return scores

    def _would_repeat(self, ids: list[int]) -> list[int]:
        """Tokens that would complete a run that is there already."""
        length = self._decoding.no_repeat_ngram
        last = ids[len(ids) - length + 1 :]
        places = range(len(ids) - length + 1)
        return [ids[place + length - 1] for place in places if ids[place : place + length - 1] == last]

    def _drawn(self, scores: Tensor) -> Tensor:
        """One token per row by inverse transform, in the order of the ids: [rows]."""
        probabilities = torch.softmax(scores.double() / self._decoding.temperature, dim=-1)
        if self._decoding.top_p < 1:
            ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
            before = ordered.cumsum(dim=-1) - ordered
            ordered = ordered.masked_fill(before >= self._decoding.top_p, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter_(1, ids, ordered)
        cumulative = probabilities.cumsum(dim=-1)
        draws = torch.tensor([[stream.random()] for stream in self._streams], dtype=torch.float64)
        return torch.searchsorted(cumulative, draws.to(scores.device) * cumulative[:, -1:], right=True)[:, 0]


def _log_silence(prompts: Sequence[str], continuations: Sequence[Continuation], log: Log) -> None:
    for prompt, continuation in zip(prompts, continuations, strict=True):
        if continuation.problem:
            log(f"after the prompt {_shown(prompt)}: {continuation.problem}")
        elif not continuation.text.strip():
            log(f"nothing was written after the prompt {_shown(prompt)}")


def _shown(prompt: str) -> str:
    return repr(prompt if len(prompt) <= CHARACTERS_SHOWN else f"{prompt[:CHARACTERS_SHOWN]}…")
