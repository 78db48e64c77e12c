"""What a prompt gets depends on model, prompt and seed alone: not on the prompts beside it, padding or not."""

import json
import math
from collections import Counter

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.language_model.toy import (
    END_OF_TEXT,
    VOCABULARY,
    ToyBatches,
    packed_rows,
    save_toy_model,
    save_toy_tokenizer,
    toy_model,
)
from yunmin_assets.language_model import TrainingConfig, generate, load_model, load_tokenizer, train
from yunmin_assets.language_model.generation import PROMPTS_PER_BATCH, Decoding, continue_prompts

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


@pytest.fixture
def bigram_model(tmp_path):
    """Makes a model that knows what follows a character and nothing else: {"a": {"b": probability}}.

    A Llama of which only the embedding and the head are left. What follows an unnamed token is the end.
    """

    def make(followers):
        tokenizer = save_toy_tokenizer(tmp_path)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=VOCABULARY,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            tie_word_embeddings=False,
        )
        model = LlamaForCausalLM(config)
        for parameter in model.model.layers.parameters():
            parameter.data.zero_()
        model.model.embed_tokens.weight.data = torch.eye(VOCABULARY)
        one_hot = math.sqrt(VOCABULARY)  # after the root mean square norm
        logits = torch.full((VOCABULARY, VOCABULARY), -30.0)
        logits[:, tokenizer.eos_token_id] = 0.0
        for token, shares in followers.items():
            row = tokenizer.convert_tokens_to_ids(token)
            logits[row] = -30.0
            for follower, share in shares.items():
                logits[row, tokenizer.convert_tokens_to_ids(follower)] = math.log(share)
        model.lm_head.weight.data = logits.T.contiguous() / one_hot
        model.save_pretrained(tmp_path)
        return tmp_path

    return make


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


def texts(continuations):
    return [each.text for each in continuations]


def test_a_batch_of_unequal_prompts_continues_each_as_if_it_were_alone(model_dir):
    together = generate(model_dir, PROMPTS, NEW_TOKENS)
    assert together == [generate(model_dir, [prompt], NEW_TOKENS)[0] for prompt in PROMPTS]
    assert together == [greedy_by_hand(model_dir, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("decoding", [Decoding(1.0, top_p=0.9, seed=5), Decoding(no_repeat_ngram=2)])
def test_neither_sampling_nor_the_repetition_guard_knows_the_prompts_beside_it(model_dir, decoding):
    many = [f"{number}분" for number in range(PROMPTS_PER_BATCH)] + PROMPTS
    together = continue_prompts(model_dir, many, NEW_TOKENS, decoding)
    backwards = continue_prompts(model_dir, many[::-1], NEW_TOKENS, decoding)
    assert together == backwards[::-1]
    for prompt, continuation in zip(many[-6:], together[-6:], strict=True):
        assert continue_prompts(model_dir, [prompt], NEW_TOKENS, decoding) == [continuation]


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


@pytest.mark.parametrize(
    ("decoding", "shares"),
    [
        ({}, {"b": 0.5, "c": 0.3, "d": 0.2}),
        ({"top_p": 0.7}, {"b": 0.5 / 0.8, "c": 0.3 / 0.8}),
        ({"temperature": 0.5}, {"b": 0.25 / 0.38, "c": 0.09 / 0.38, "d": 0.04 / 0.38}),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_probable(bigram_model, decoding, shares):
    folder = bigram_model({"a": {"b": 0.5, "c": 0.3, "d": 0.2}})
    prompts = [f"{number}a" for number in range(640)]
    drawn = Counter(texts(continue_prompts(folder, prompts, 1, Decoding(**{"temperature": 1.0} | decoding))))
    assert set(drawn) == set(shares)
    for letter, share in shares.items():
        four_deviations = 4 * math.sqrt(share * (1 - share) / len(prompts))
        assert drawn[letter] / len(prompts) == pytest.approx(share, abs=four_deviations)


def test_a_continuation_says_whether_the_model_ended_it(bigram_model):
    folder = bigram_model({"a": {"b": 1}, "b": {"c": 1}, "x": {"x": 1}})
    ended, cut, just_in_time, empty = continue_prompts(folder, ["a", "x", "ya", "z"], 3)
    assert (ended.text, ended.n_tokens, ended.ended) == ("bc", 2, True)
    assert (cut.text, cut.n_tokens, cut.ended) == ("xxx", 3, False)
    assert just_in_time == ended
    assert (empty.text, empty.n_tokens, empty.ended, empty.problem) == ("", 0, True, None)


def test_the_log_names_the_prompts_after_which_nothing_was_written(bigram_model):
    lines = []
    continue_prompts(bigram_model({"a": {"b": 1}}), ["a", "조용한 물음"], 3, log=lines.append)
    assert lines[1:] == ["nothing was written after the prompt '조용한 물음'"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_no_numbers_end_their_own_prompt_and_are_named(bigram_model, broken, temperature):
    folder = bigram_model({"a": {"b": 1}, "x": {"x": 1}})
    model, token = load_model(folder), load_tokenizer(folder).convert_tokens_to_ids("b")
    model.model.embed_tokens.weight.data[token] = broken
    model.save_pretrained(folder)
    lines = []
    broken, whole = continue_prompts(folder, ["a", "x"], 3, Decoding(temperature), log=lines.append)
    assert (broken.text, broken.ended) == ("b", False)
    assert broken.problem == "the logits of token 2 are not finite numbers"
    assert (whole.text, whole.problem) == ("xxx", None)
    assert "after the prompt 'a': the logits of token 2" in lines[1]
    with pytest.raises(ValueError, match="after the prompt 'a': the logits of token 2"):
        generate(folder, ["x", "a"], 3, temperature=temperature)


def test_a_prompt_that_spells_out_the_end_of_text_does_not_begin_a_new_text(bigram_model):
    folder = bigram_model({">": {"b": 1}, END_OF_TEXT: {"c": 1}, "c": {"c": 1}})
    assert generate(folder, [f"a{END_OF_TEXT}"], 3) == ["b"]


def test_the_models_own_generation_options_have_no_say(model_dir):
    before = generate(model_dir, PROMPTS, NEW_TOKENS)
    file = model_dir / "generation_config.json"
    options = json.loads(file.read_text()) | {"repetition_penalty": 9.0, "min_new_tokens": 2, "max_length": 3}
    file.write_text(json.dumps(options))
    assert generate(model_dir, PROMPTS, NEW_TOKENS) == before


def test_no_prompts_give_no_continuations(model_dir):
    assert generate(model_dir, [], NEW_TOKENS) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", -1), ("temperature", math.nan), ("top_p", 0), ("top_p", 1.5), ("no_repeat_ngram", -1)],
)
def test_an_option_out_of_range_is_named(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value}"):
        Decoding(**{option: value})
