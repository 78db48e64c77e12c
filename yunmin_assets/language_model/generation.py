"""Generate continuations in batches.

Prompts of unequal length are padded on the left *with* a mask: Mamba carries a state from left to right, so
padding that is not masked changes the logits by 2.5–3.0. Every prompt starts with the end-of-text token, as
every document did in training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from yunmin_assets.language_model.architecture import load_model
from yunmin_assets.language_model.tokenizer import load_tokenizer
from yunmin_assets.progress import Log, Progress, silent

PROMPTS_PER_BATCH = 16


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
    """Continue each prompt; returns the continuations without the prompts, in order.

    Args:
        model_dir: A Hugging Face folder with model and tokenizer.
        prompts: May be empty strings.
        max_new_tokens: Generation stops there or at the end-of-text token.
        seed: Only has an effect when `temperature` is above 0; the global random state is left as it was.
        temperature: 0 is greedy.
        no_repeat_ngram: When above 0, no run of this many tokens occurs twice (prompt included): a guard
            against the loops of small models.
    """
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}, must be 0 (greedy) or above")
    model, tokenizer = load_model(model_dir), load_tokenizer(model_dir)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "do_sample": temperature > 0,
        "no_repeat_ngram_size": no_repeat_ngram,
    }
    if temperature > 0:
        options["temperature"] = temperature
    continuations: list[str] = []
    with Progress(log, "prompts", total=len(prompts)) as progress, torch.random.fork_rng():
        torch.manual_seed(seed)
        for first in range(0, len(prompts), PROMPTS_PER_BATCH):
            some = prompts[first : first + PROMPTS_PER_BATCH]
            continuations += _continue_batch(model, tokenizer, some, options)
            progress.advance(len(some))
    return continuations


@torch.inference_mode()
def _continue_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    options: dict[str, Any],
) -> list[str]:
    eos_id = tokenizer.eos_token_id
    sequences = [[eos_id, *ids] for ids in tokenizer(list(prompts), add_special_tokens=False)["input_ids"]]
    longest = max(map(len, sequences))
    input_ids = torch.full((len(sequences), longest), eos_id)
    mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, longest - len(sequence) :] = torch.tensor(sequence)
        mask[row, longest - len(sequence) :] = 1
    output = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        eos_token_id=eos_id,
        pad_token_id=eos_id,
        **options,
    )
    return tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
