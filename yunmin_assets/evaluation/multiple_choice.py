"""Answer multiple-choice benchmarks with lm-eval 0.4.13: the choice that a model finds most likely is its answer.

lm-eval's task turns an item into a prompt and its choices, lm-eval's Hugging Face model gives their log-likelihoods.
What is left to its defaults would cost hours or fool someone, so:

- The model is loaded as everywhere here (Mamba-1 with our scan on a CPU) and computes in float32: in bfloat16, letters
  may tie, and lm-eval takes the first of equals.
- A prompt begins with the end-of-text token, as every document did in training, and the spelling of a special token
  in it is text. lm-eval would put nothing before it.
- No examples before the question (`num_fewshot: 0`): nothing is drawn at random, and no seed is set for the process.
- Prompts and choices are those of lm-eval's own tasks to the blank (BoolQ and COPA have two in a row); what differs
  stands in docs/evaluation.md. Blanks at a prompt's end are scored with the choice, as lm-eval does.
- Batches hold items of like length up to a budget of tokens, where lm-eval's hold one; choices that differ in their
  last token alone (A to E) are one row. Padding is on the right, which a causal model cannot see. Logits are computed
  for the last positions only, of which the choices consist. On a CPU every core works on batches of its own.
- Nothing is fetched, cached or printed: the items come from memory, and `lm_eval.evaluate`, which draws progress bars
  and bootstraps errors that nobody needs here, is passed by.
- An item is *unanswered*, and counts as wrong, where a log-likelihood is not finite (lm-eval takes NaN for the
  largest), where the best choices tie, where it is longer than the model's context (lm-eval cuts the question), or
  where the tokenizer joins the end of the prompt with the choice (lm-eval scores something else). Each is listed.

Price on a CPU, by a Mamba-2 of 1M parameters with 4,096 tokens in its vocabulary: 500 items take 2 (SentiNeg) to 13
CPU-seconds (HellaSwag), the 2,710 of KoBEST's development files 35, in 1.2 GB. Time grows with the parameters: set a
limit for larger models. With lm-eval's defaults the same took some 10 times as long on two busy cores (most of it
threads that wait for each other), and some 15 times with Mamba-1 (no scan).
"""

import logging
import math
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from yunmin_assets.evaluation.benchmark_files import BenchmarkItem, BenchmarkItems, LeftOut, task_config
from yunmin_assets.evaluation.choice_statistics import (
    Answer,
    ChoiceResult,
    best_constant,
    macro_f1,
    wilson_interval,
)
from yunmin_assets.evaluation.kept_results import Keep, Rows, keep_nothing
from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.tokenizer import load_tokenizer, vocabulary_size
from yunmin_assets.progress import Log, Progress, silent
from yunmin_assets.pruning.scoring import CONTEXT_KEYS

PER_CHARACTER = "acc_norm"
NO_LIMIT = sys.maxsize
"""The context of a model that has no limit, as Mamba."""

Encoded = tuple[tuple[str, str], list[int], list[int]]
"""A prompt and a choice as texts, and the tokens of both."""
Scores = list[tuple[float, bool]]
"""lm-eval's answer to a request: the choice's log-likelihood, and whether the model would write it."""

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant here, in every call


def evaluate_choices(
    model_dir: Path,
    benchmarks: Sequence[BenchmarkItems],
    *,
    model_name: str,
    limit: int | None = None,
    batch_tokens: int = 2048,
    confidence: float = 0.95,
    keep: Keep = keep_nothing,
    log: Log = silent,
) -> list[ChoiceResult]:
    """Answer benchmarks with the model of a folder.

    Args:
        model_dir: a Hugging Face folder with a causal LM and its tokenizer.
        benchmarks: as `check_benchmark` read them.
        model_name: what results call it.
        limit: ask at most so many items of each benchmark, chosen by their content.
        batch_tokens: positions, padding included, in one batch; a longer item is a batch of its own.
        confidence: of the intervals.
        keep: takes the answers to each benchmark; the model is loaded for the first that it does not have.
        log: receives progress lines.

    Returns:
        One result per benchmark, in order.

    Raises:
        ValueError: the tokenizer does not fit the model.
    """

    @cache
    def load() -> ChoiceModel:
        # transformers draws random weights before it reads the file's
        with torch.random.fork_rng(devices=[]):
            return ChoiceModel(model_dir, batch_tokens)

    def answer(asked: BenchmarkItems) -> Rows:
        model = load()
        model.log = lambda line: log(f"{model_name} on {asked.file.name}: {line}")
        return _answer(model, asked)

    results = []
    for benchmark in benchmarks:
        asked = benchmark.limited(limit)
        rows = keep(("answers", model_name, asked.file.name), partial(answer, asked))
        results.append(_result(model_name, asked, rows, confidence))
    return results


class ChoiceModel(HFLM):
    """lm-eval's Hugging Face model, given what our models were trained on, in batches of like length."""

    def __init__(self, model_dir: Path, batch_tokens: int, log: Log = silent) -> None:
        model, tokenizer = load_model(model_dir).to(torch.float32), load_tokenizer(model_dir)
        if (tokens := vocabulary_size(tokenizer)) > model.config.vocab_size:
            raise ValueError(
                f"{model_dir}: the tokenizer needs {tokens} embeddings, the model has {model.config.vocab_size}"
            )
        contexts = [getattr(model.config, key, None) for key in CONTEXT_KEYS]
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            max_length=next((context for context in contexts if context), NO_LIMIT),
            batch_size=NO_LIMIT,  # batches are cut here
        )
        self.batch_tokens, self.log = batch_tokens, log
        self.refused: dict[tuple[str, str], str] = {}
        """Why a prompt and choice have no log-likelihood."""
        self._of_thread = threading.local()

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """The end-of-text token and the tokens of a text."""
        ids = self.tokenizer(string, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return [self.tokenizer.eos_token_id, *ids["input_ids"]]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> Scores:
        """The log-likelihood of each request's choice after its prompt, in nats; NaN where it is refused."""
        encoded = [self._encode(*request.args) for request in requests]
        scores: Scores = [(math.nan, False)] * len(requests)
        with Progress(self.log, "choices", total=len(requests)) as progress:
            batches = list(self._batches(encoded))
            requests_of = [[encoded[place] for place in batch] for batch in batches]
            for batch, of_batch in zip(batches, self._on_all_cores(requests_of), strict=True):
                for place, score in zip(batch, of_batch, strict=True):
                    scores[place] = score
                progress.advance(len(batch))
        return scores

    def _encode(self, prompt: str, choice: str) -> Encoded:
        """Tokens of prompt and choice; none where they cannot be scored, and `refused` says why."""
        before, both = self.tok_encode(prompt.rstrip()), self.tok_encode(prompt + choice)
        if both[: len(before)] != before or len(both) == len(before):
            self.refused[prompt, choice] = "the tokenizer joins the end of the prompt with the choice"
        elif len(both) - 1 > self.max_length:
            self.refused[prompt, choice] = (
                f"{len(both) - 1} tokens are more than the model's context of {self.max_length}"
            )
        else:
            return (prompt, choice), before, both[len(before) :]
        return (prompt, choice), [], []

    def _batches(self, encoded: Sequence[Encoded]) -> Iterator[list[int]]:
        """Places of requests, the longest first; those with the same input to the model are in the same batch."""
        places_of: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, (_, prompt, choice) in enumerate(encoded):
            if choice:
                places_of[*prompt, *choice[:-1]].append(place)
        rows = sorted(places_of.items(), key=lambda row: -len(row[0]))
        first = 0
        while first < len(rows):
            end = first + max(self.batch_tokens // len(rows[first][0]), 1)
            yield [place for _, places in rows[first:end] for place in places]
            first = end

    def _on_all_cores(self, batches: list[list[Encoded]]) -> Iterator[Scores]:
        """Score batches in order; on a CPU every core works on its own, for threads would wait for each other."""
        threads = torch.get_num_threads()
        workers = threads if self.device.type == "cpu" else 1
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield from pool.map(self._score, batches)
            finally:
                torch.set_num_threads(threads)

    def _score(self, batch: list[Encoded]) -> Scores:
        """Score requests in one call of the model."""
        longest = max(len(prompt) + len(choice) - 1 for _, prompt, choice in batch)
        self._of_thread.logits_to_keep = longest + 1 - min(len(prompt) for _, prompt, _ in batch)
        scores: Scores = super()._loglikelihood_tokens(batch, disable_tqdm=True)
        return scores

    @torch.inference_mode()
    def _model_call(self, inps: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Logits [rows, last positions, vocabulary]; lm-eval counts positions from the end."""
        logits: torch.Tensor = self.model(
            input_ids=inps, use_cache=False, logits_to_keep=self._of_thread.logits_to_keep
        ).logits
        return logits


def _answer(model: ChoiceModel, asked: BenchmarkItems) -> Rows:
    """What the model chose of each item, counted from 0; None where it chose nothing, and why."""
    config = task_config(asked.file.task)
    metric = _metric(config)
    requests = build_requests(build_task(config, asked.items))
    scores = iter(model.loglikelihood([request for of_item in requests for request in of_item]))
    rows = []
    for of_item in requests:
        values = [
            next(scores)[0] / (_characters(request) if metric == PER_CHARACTER else 1) for request in of_item
        ]
        reasons = [model.refused[request.args] for request in of_item if request.args in model.refused]
        reason = reasons[0] if reasons else _why_undecided(values)
        rows.append({"chosen": None if reason else values.index(max(values)), "reason": reason})
    return rows


def _result(model_name: str, asked: BenchmarkItems, rows: Rows, confidence: float) -> ChoiceResult:
    items = list(zip(asked.items, rows, strict=True))
    answers = {item.item: Answer(row["chosen"], item.answer) for item, row in items}
    correct = sum(answer.is_right for answer in answers.values())
    low, high = wilson_interval(correct, len(items), confidence)
    return ChoiceResult(
        benchmark=asked.file.name,
        model=model_name,
        metric=_metric(task_config(asked.file.task)),
        items_in_file=asked.items_in_file,
        left_out=asked.left_out,
        items=len(items),
        correct=correct,
        accuracy=correct / len(items),
        low=low,
        high=high,
        macro_f1=macro_f1(list(answers.values())),
        chance=fmean(1 / item.choice_count for item in asked.items),
        constant=best_constant(list(answers.values())),
        unanswered=tuple(LeftOut(item.item, row["reason"]) for item, row in items if row["reason"]),
        answers=answers,
    )


def _metric(config: dict[str, Any]) -> str:
    metric: str = config["metric_list"][0]["metric"]
    return metric


def build_task(config: dict[str, Any], items: Sequence[BenchmarkItem]) -> ConfigurableTask:
    """lm-eval's task over items in memory."""
    rows = [
        {**item.texts, "choices": list(item.choices), "choice_count": item.choice_count, "gold": item.answer}
        for item in items
    ]
    in_memory = {config["test_split"]: Dataset.from_list(rows)}
    return ConfigurableTask(config={**config, "custom_dataset": lambda **_: in_memory})


def build_requests(task: ConfigurableTask) -> list[list[Instance]]:
    """For each item lm-eval's requests: the prompt with every choice. Its own loop draws a progress bar."""
    return [
        task.construct_requests(row, task.fewshot_context(row, 0), metadata=(task.config.task, place, 1))
        for place, row in enumerate(task.test_docs())
    ]


def _characters(request: Instance) -> int:
    """Length of a choice without the blank before it, as lm-eval counts it."""
    return len(request.args[1].strip())


def _why_undecided(values: list[float]) -> str | None:
    """Why log-likelihoods name no choice; None where they do."""
    for number, value in enumerate(values, start=1):
        if not math.isfinite(value):
            return f"the log-likelihood of choice {number} is {value}"
    if values.count(max(values)) > 1:
        return "several choices are equally likely"
    return None
