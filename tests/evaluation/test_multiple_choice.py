"""Answers to multiple-choice items are those that the model's own log-likelihoods give, and lm-eval's."""

import functools
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.conftest import REPOSITORY
from tests.evaluation.tiny_benchmarks import ROWS, checked, write_benchmarks, write_rows
from tests.language_model.toy import (
    END_OF_TEXT,
    VOCABULARY,
    one_thread,
    save_toy_model,
    save_toy_tokenizer,
    toy_model,
)
from yunmin_assets.evaluation.benchmark_files import BenchmarkItems, task_config
from yunmin_assets.evaluation.choice_statistics import Answer, ChoiceResult, compare_choices
from yunmin_assets.evaluation.multiple_choice import ChoiceModel, build_requests, build_task, evaluate_choices
from yunmin_assets.language_model import load_model, load_tokenizer

ARCHITECTURES = ("mamba", "mamba2", "llama")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_toy_model(root / name, name) for name in ARCHITECTURES}


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory) -> list[BenchmarkItems]:
    return checked(write_benchmarks(tmp_path_factory.mktemp("files")))


def evaluate(folder: Path, benchmarks: list[BenchmarkItems], **options) -> list[ChoiceResult]:
    return evaluate_choices(folder, benchmarks, model_name=folder.name, **options)


def requests_of(benchmark: BenchmarkItems) -> list[list[Instance]]:
    return build_requests(build_task(task_config(benchmark.file.task), benchmark.items))


def all_requests(benchmarks: list[BenchmarkItems]) -> list[Instance]:
    return [each for benchmark in benchmarks for of_item in requests_of(benchmark) for each in of_item]


loaded = functools.cache(lambda folder: (load_model(folder), load_tokenizer(folder)))


@torch.inference_mode()
def by_hand(folder: Path, prompt: str, choice: str) -> float:
    """One text at a time, without padding: the end-of-text token, the prompt, blanks and choice; in float64."""
    model, tokenizer = loaded(folder)
    text = prompt.rstrip()
    before, after = (tokenizer(part)["input_ids"] for part in (text, prompt[len(text) :] + choice))
    ids = torch.tensor([[tokenizer.eos_token_id, *before, *after]])
    log_probabilities = model(ids, use_cache=False).logits[0].double().log_softmax(-1)
    return sum(log_probabilities[len(before) + place, token].item() for place, token in enumerate(after))


def test_a_model_sees_these_prompts_and_choices(benchmarks):
    seen = {benchmark.file.task: requests_of(benchmark) for benchmark in benchmarks}
    last = {task: [request.args for request in of_items[-1]] for task, of_items in seen.items()}
    assert last["kobest_boolq"] == [
        ("밤에는 해가 진다. 질문: 밤은 어두운가? 답변: ", " 아니오"),
        ("밤에는 해가 진다. 질문: 밤은 어두운가? 답변: ", " 예"),
    ]
    assert last["kobest_copa"] == [
        ("잠을 못 잤다.  왜냐하면", " 잘 쉬었다."),
        ("잠을 못 잤다.  왜냐하면", " 시끄러웠다."),
    ]
    assert seen["kobest_copa"][0][0].args == ("비가 왔다.  그래서", " 길이 젖었다.")
    assert last["kobest_hellaswag"][2] == ("문장: 기차가 역에 들어온다.", " 사람들이 내린다.")
    assert last["kobest_sentineg"] == [
        ("문장: 다시는 안 삽니다 긍부정:", " 부정"),
        ("문장: 다시는 안 삽니다 긍부정:", " 긍정"),
    ]
    assert last["kobest_wic"][1] == (
        "문장1: [길]을 걷다. 문장2: [길]을 건너다. 두 문장에서 길가 같은 뜻으로 쓰였나?",
        " 예",
    )
    assert last["kmmlu"][3] == ("1+1은?\nA. 5\nB. 3\nC. 1\nD. 2\n정답：", " D")
    assert last["hae_rae"][4] == ("또 고르시오.\n(A) 가 (B) 나 (C) 다 (D) 라 (E) 마\n정답:", " (E)")
    assert last["click"][4] == (
        "주어진 맥락을 천천히 읽고, 질문에 대한 적절한 정답을 A, B, C, D, E 중에 골라 알파벳 하나로 답하시오.\n\n"
        "맥락: 글이다.\n질문: 무엇인가?\n보기:\nA:글, B: 말, C: 그림, D: 노래, E: 춤\n정답:",
        " E",
    )
    assert seen["click"][0][0].args == (
        "주어진 질문을 천천히 읽고, 적절한 정답을 A, B, C, D 중에 골라 알파벳 하나로 답하시오.\n\n"
        "질문: 수도는?\n보기:\nA:서울, B: 부산, C: 대구, D: 광주\n정답:",
        " A",
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_likelihoods_are_those_computed_by_hand(folders, benchmarks, architecture):
    requests = all_requests(benchmarks)
    scores = ChoiceModel(folders[architecture], batch_tokens=2048).loglikelihood(requests)
    for request, (score, _) in zip(requests, scores, strict=True):
        assert score == pytest.approx(by_hand(folders[architecture], *request.args), abs=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_likelihoods_are_those_of_lm_evals_own_model_after_an_end_of_text_token(
    folders, benchmarks, architecture
):
    requests = all_requests(benchmarks)
    stock = HFLM(
        load_model(folders[architecture]), tokenizer=load_tokenizer(folders[architecture]), batch_size=1
    )
    after_end_of_text = [
        Instance("loglikelihood", {}, (END_OF_TEXT + request.args[0], request.args[1]), 0)
        for request in requests
    ]
    theirs = stock.loglikelihood(after_end_of_text, disable_tqdm=True)
    ours = ChoiceModel(folders[architecture], batch_tokens=2048).loglikelihood(requests)
    assert np.allclose([score for score, _ in ours], [score for score, _ in theirs], atol=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_accuracies_are_those_of_lm_evals_own_loop(folders, benchmarks):
    ours = {result.benchmark: result for result in evaluate(folders["mamba2"], benchmarks)}
    for benchmark in benchmarks:
        config = task_config(benchmark.file.task)
        tasks = {"tasks": {benchmark.file.task: build_task(config, benchmark.items)}, "groups": {}}
        theirs = lm_eval.evaluate(ChoiceModel(folders["mamba2"], 2048), tasks, bootstrap_iters=0)
        result = ours[benchmark.file.name]
        assert result.accuracy == theirs["results"][benchmark.file.task][f"{result.metric},none"]


def test_the_answer_is_the_likeliest_choice_and_in_hellaswag_the_likeliest_per_character(folders, benchmarks):
    for result, benchmark in zip(evaluate(folders["mamba"], benchmarks), benchmarks, strict=True):
        for item, requests in zip(benchmark.items, requests_of(benchmark), strict=True):
            scores = [by_hand(folders["mamba"], *request.args) for request in requests]
            if benchmark.file.task == "kobest_hellaswag":
                scores = [score / len(choice) for score, choice in zip(scores, item.choices, strict=True)]
            assert result.answers[item.item] == Answer(int(np.argmax(scores)), item.answer)


def test_a_result_says_what_was_asked(folders, benchmarks):
    results = {result.benchmark: result for result in evaluate(folders["llama"], benchmarks)}
    click = results["click_tiny"]
    assert click.chance == pytest.approx((1 / 4 + 1 / 5) / 2)
    assert (click.items, click.items_in_file, click.left_out, click.model) == (2, 2, (), "llama")
    assert click.low <= click.accuracy <= click.high
    assert results["kobest_boolq_tiny"].constant == pytest.approx(2 / 3)
    assert {result.metric for result in results.values()} == {"acc", "acc_norm"}


@pytest.mark.parametrize("batch_tokens", [1, 60, 100_000])
def test_the_size_of_batches_changes_nothing(folders, benchmarks, batch_tokens):
    requests = all_requests(benchmarks)
    expected = ChoiceModel(folders["mamba2"], batch_tokens=2048).loglikelihood(requests)
    scores = ChoiceModel(folders["mamba2"], batch_tokens=batch_tokens).loglikelihood(requests)
    assert np.allclose([score for score, _ in scores], [score for score, _ in expected], atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_compared_with_itself_is_not_shown_to_differ(folders, benchmarks, architecture):
    base, again = (evaluate(folders[architecture], benchmarks) for _ in range(2))
    assert base == again
    assert {line.verdict for line in compare_choices(base, again)} == {"not shown"}


def test_the_number_of_threads_changes_nothing(folders, benchmarks):
    expected = evaluate(folders["mamba2"], benchmarks, batch_tokens=100)
    torch.set_num_threads(3)
    assert evaluate(folders["mamba2"], benchmarks, batch_tokens=100) == expected
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)


def test_a_limit_caps_the_items_of_each_benchmark(folders, benchmarks):
    results = evaluate(folders["mamba2"], benchmarks, limit=1)
    assert [result.items for result in results] == [1] * len(benchmarks)
    assert [result.items_in_file for result in results] == [len(ROWS[each.file.task]) for each in benchmarks]


def test_progress_names_model_and_benchmark(folders, benchmarks):
    lines: list[str] = []
    evaluate(folders["mamba2"], benchmarks[:1], log=lines.append)
    assert lines[-1].startswith("mamba2 on click_tiny: 9 of 9 choices")


def test_the_state_of_random_generators_stays(folders, benchmarks):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    evaluate(folders["mamba2"], benchmarks)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_the_spelling_of_a_special_token_is_text(folders):
    model = ChoiceModel(folders["mamba2"], batch_tokens=2048)
    ids = model.tok_encode(f"가{END_OF_TEXT}나")
    assert ids.count(model.tokenizer.eos_token_id) == 1
    assert model.tokenizer.decode(ids[1:]) == f"가{END_OF_TEXT}나"


def test_a_model_saved_in_bfloat16_computes_in_float32(folders, benchmarks, tmp_path):
    for name, dtype in {"half": torch.bfloat16, "full": torch.float32}.items():
        toy_model("mamba2").to(torch.bfloat16).to(dtype).save_pretrained(tmp_path / name)
        save_toy_tokenizer(tmp_path / name)
    half, full = (evaluate(tmp_path / name, benchmarks) for name in ("half", "full"))
    assert [result.answers for result in half] == [result.answers for result in full]


def test_a_model_of_nans_answers_nothing(folders, benchmarks, tmp_path):
    model = toy_model("mamba2")
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = torch.nan
    model.save_pretrained(tmp_path)
    save_toy_tokenizer(tmp_path)
    for result in evaluate(tmp_path, benchmarks):
        assert (result.correct, len(result.unanswered)) == (0, result.items)
        assert {each.reason for each in result.unanswered} == {"the log-likelihood of choice 1 is nan"}
        assert {answer.chosen for answer in result.answers.values()} == {None}


def test_a_text_that_makes_nans_costs_its_own_item_alone(benchmarks, tmp_path):
    """With a head of its own, a broken embedding is seen only by texts with that token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    tokenizer = save_toy_tokenizer(tmp_path / "broken")
    save_toy_tokenizer(tmp_path / "whole")
    model.save_pretrained(tmp_path / "whole")
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Q")["input_ids"][0]] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    rows = [*ROWS["kobest_boolq"], {"ID": "4", "Text": "Q", "Question": "Q인가?", "Answer": "True"}]
    write_rows(tmp_path / "kobest_boolq.jsonl", rows)
    whole, broken = (evaluate(tmp_path / name, checked(tmp_path))[0] for name in ("whole", "broken"))
    assert [each.item for each in broken.unanswered] == [4]
    assert broken.answers == {**whole.answers, 4: Answer(None, 1)}
    assert broken.items == whole.items == 4


def test_choices_that_tie_are_no_answer(benchmarks, tmp_path):
    model = toy_model("mamba2")
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    model.save_pretrained(tmp_path)
    save_toy_tokenizer(tmp_path)
    kmmlu = next(each for each in benchmarks if each.file.task == "kmmlu")
    (result,) = evaluate(tmp_path, [kmmlu])
    assert {each.reason for each in result.unanswered} == {"several choices are equally likely"}
    assert result.correct == 0


def test_a_hae_rae_query_that_lists_four_options_is_asked_for_four(folders, tmp_path):
    query = "고르시오.\n(A) 가 (B) 나 (C) 다 (D) 라\n정답:"
    write_rows(tmp_path / "hae_rae.jsonl", [{"query": query, "answer": "(D)"}])
    (benchmark,) = checked(tmp_path)
    assert [each.args[1] for each in requests_of(benchmark)[0]] == [" (A)", " (B)", " (C)", " (D)"]
    (result,) = evaluate(folders["mamba2"], [benchmark])
    assert result.chance == 1 / 4


def test_an_item_longer_than_the_context_is_unanswered_not_cut(benchmarks, tmp_path):
    model = toy_model("llama")
    model.config.max_position_embeddings = 60
    model.save_pretrained(tmp_path)
    save_toy_tokenizer(tmp_path)
    click = next(each for each in benchmarks if each.file.task == "click")
    (result,) = evaluate(tmp_path, [click])
    assert [each.item for each in result.unanswered] == [1, 2]
    assert "more than the model's context of 60" in result.unanswered[0].reason


def test_a_tokenizer_that_joins_prompt_and_choice_is_noticed(benchmarks, tmp_path):
    """Without a cut at blanks, a frequent `답변: 예` becomes one token, and `답변:` would not be its beginning."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["답변: 예"] * 20, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT).save_pretrained(tmp_path)
    toy_model("mamba2").save_pretrained(tmp_path)
    boolq = next(each for each in benchmarks if each.file.task == "kobest_boolq")
    (result,) = evaluate(tmp_path, [boolq])
    assert len(result.unanswered) == result.items
    assert result.unanswered[0].reason == "the tokenizer joins the end of the prompt with the choice"


def test_a_tokenizer_too_large_for_the_model_is_refused(folders, benchmarks, tmp_path):
    torch.manual_seed(0)
    config = load_model(folders["llama"]).config
    config.vocab_size = 100
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    save_toy_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer needs 300 embeddings, the model has 100"):
        evaluate(tmp_path, benchmarks)


def test_without_benchmarks_no_model_is_loaded(tmp_path):
    assert evaluate(tmp_path / "absent", []) == []


OFFLINE = """
import socket, sys
from pathlib import Path

def refuse(*_):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.getaddrinfo = refuse
from tests.evaluation.tiny_benchmarks import checked
from yunmin_assets.evaluation.multiple_choice import evaluate_choices
results = evaluate_choices(Path(sys.argv[1]), checked(Path(sys.argv[2])), model_name="toy")
assert len(results) == 8
"""


def test_nothing_is_fetched_cached_or_printed(folders, tmp_path):
    home, files = tmp_path / "home", write_benchmarks(tmp_path / "files")
    home.mkdir()
    hidden = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    run = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(folders["mamba2"]), str(files)],
        cwd=REPOSITORY,
        env={**hidden, "HOME": str(home), "TMPDIR": str(home)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_kobest_is_answered(shared_data, folders):
    results = evaluate(folders["mamba"], checked(shared_data / "eval"), limit=6)
    assert [result.items for result in results] == [6] * 5
    assert not any(result.unanswered or result.left_out for result in results)
