"""Generation in batches gives what one prompt at a time gives, padding or not."""

import pytest
import torch

from tests.language_model.toy import ToyBatches, packed_rows, save_toy_model, toy_model
from yunmin_assets.language_model import TrainingConfig, generate, load_model, load_tokenizer, train

PROMPTS = ["제", "김치찌개는 열 분 동안 끓인다. 부산행 기차는", "", "된장"]
NEW_TOKENS = 8


@pytest.fixture(scope="module", params=["mamba", "mamba2"])
def model_dir(request, tmp_path_factory):
    """A model trained a little on a text that goes round in circles, so that it does as well."""
    folder = save_toy_model(tmp_path_factory.mktemp(request.param), request.param)
    model = toy_model(request.param)
    config = TrainingConfig(steps=30, warmup_steps=1, learning_rate=1e-2)
    rows = packed_rows(load_tokenizer(folder), ["된장 두부 " * 100])
    train(model, ToyBatches(rows), config, tmp_path_factory.mktemp("checkpoint"))
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def greedy_by_hand(folder, prompt):
    """The definition: append the most probable token, the whole sequence through the model each time."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    ids = [tokenizer.eos_token_id, *tokenizer(prompt)["input_ids"]]
    prompt_length = len(ids)
    while len(ids) < prompt_length + NEW_TOKENS:
        best = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    return tokenizer.decode(ids[prompt_length:])


def test_a_batch_of_unequal_prompts_continues_each_as_if_it_were_alone(model_dir):
    together = generate(model_dir, PROMPTS, NEW_TOKENS)
    assert together == [generate(model_dir, [prompt], NEW_TOKENS)[0] for prompt in PROMPTS]
    assert together == [greedy_by_hand(model_dir, prompt) for prompt in PROMPTS]


def test_the_repetition_guard_lets_no_run_of_tokens_occur_twice(model_dir):
    run = " 두부 된장"
    tokens_in_run = len(load_tokenizer(model_dir)(run)["input_ids"])
    unguarded = generate(model_dir, ["된장"], 60)[0]
    guarded = generate(model_dir, ["된장"], 60, no_repeat_ngram=tokens_in_run)[0]
    assert unguarded.count(run) > 3
    assert guarded.count(run) == 1


def test_sampling_depends_on_the_seed_only(model_dir):
    torch.manual_seed(1)
    first = generate(model_dir, PROMPTS, NEW_TOKENS, seed=3, temperature=1.0)
    torch.manual_seed(2)
    assert generate(model_dir, PROMPTS, NEW_TOKENS, seed=3, temperature=1.0) == first
    assert generate(model_dir, PROMPTS, NEW_TOKENS, seed=4, temperature=1.0) != first


def test_no_prompts_give_no_continuations_and_a_negative_temperature_is_refused(model_dir):
    assert generate(model_dir, [], NEW_TOKENS) == []
    with pytest.raises(ValueError, match="temperature is -1"):
        generate(model_dir, PROMPTS, temperature=-1)
