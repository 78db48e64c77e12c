"""A document's score is its own: the same alone or in any batch, padded or cut into windows."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from tests.language_model.toy import save_toy_model, save_toy_tokenizer, toy_model, toy_texts
from yunmin_assets.language_model import load_model, load_tokenizer
from yunmin_assets.pruning import SCORE_SCHEMA, score_documents
from yunmin_assets.pruning.windows import batches_of, document_windows, windows_of

TEXTS = [
    *toy_texts("food", 5),
    "",
    "가",
    " ".join(toy_texts("law", 12)),
    "된장",
    *toy_texts("travel", 4),
    " ".join(toy_texts("food", 3)),
]
DOCUMENTS = pa.table({"id": [f"d{i}" for i in range(len(TEXTS))], "text": pa.array(TEXTS, pa.large_string())})


@pytest.fixture(scope="module", params=["mamba", "mamba2", "llama"])
def model_dir(request, tmp_path_factory):
    return save_toy_model(tmp_path_factory.mktemp(request.param), request.param)


@torch.no_grad()
def loss_alone(folder, text, context=()):
    """Sum of the token losses of one text, one forward pass, shifted by transformers itself."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    ids = torch.tensor([[tokenizer.eos_token_id, *context, *tokenizer(text)["input_ids"]]])
    return model(ids, labels=ids).loss.double().item() * (ids.shape[1] - 1)


def test_a_batched_score_equals_that_of_the_document_alone(model_dir):
    scores = score_documents(DOCUMENTS, model_dir, token_budget=512, max_length=512)
    assert scores.schema == SCORE_SCHEMA
    assert scores.column("id").to_pylist() == DOCUMENTS.column("id").to_pylist()
    for row in scores.to_pylist():
        text = TEXTS[int(row["id"][1:])]
        if text:
            expected = loss_alone(model_dir, text)
            assert row["nll"] / row["n_tokens"] == pytest.approx(expected / row["n_tokens"], abs=1e-5)
            assert row["n_tokens"] == len(load_tokenizer(model_dir)(text)["input_ids"])
            assert row["n_bytes"] == len(text.encode())
            assert row["perplexity"] == pytest.approx(math.exp(row["nll"] / row["n_tokens"]))
            assert row["bits_per_byte"] == pytest.approx(row["nll"] / math.log(2) / row["n_bytes"])


def test_a_document_without_tokens_has_no_perplexity(model_dir):
    row = score_documents(DOCUMENTS, model_dir).to_pylist()[TEXTS.index("")]
    assert row == {
        "id": "d5",
        "n_tokens": 0,
        "n_bytes": 0,
        "n_scored": 0,
        "nll": 0.0,
        "perplexity": None,
        "bits_per_byte": None,
    }
    only_empty = score_documents(DOCUMENTS.slice(5, 1), model_dir)
    assert only_empty.to_pylist() == [row]
    assert score_documents(DOCUMENTS.slice(0, 0), model_dir) == SCORE_SCHEMA.empty_table()


def test_the_spelling_of_a_special_token_is_text_like_any_other(model_dir):
    documents = pa.table({"id": ["d"], "text": ["가<|endoftext|>나"]})
    tokenizer = load_tokenizer(model_dir)
    pieces = [tokenizer(piece)["input_ids"] for piece in ("가", "<|endoftext", "|>나")]
    assert score_documents(documents, model_dir).column("n_tokens")[0].as_py() == sum(map(len, pieces))


def test_the_batch_size_and_the_neighbours_do_not_change_a_score(model_dir):
    large = score_documents(DOCUMENTS, model_dir, token_budget=4096)
    small = score_documents(DOCUMENTS.take([9, 2, 7]), model_dir, token_budget=1024)
    per_token = large.column("nll").to_numpy()[[9, 2, 7]] / small.column("n_tokens").to_numpy()
    np.testing.assert_allclose(
        small.column("nll").to_numpy() / small.column("n_tokens").to_numpy(), per_token, rtol=0, atol=1e-5
    )


def test_scoring_again_gives_the_same_bits(model_dir):
    assert score_documents(DOCUMENTS, model_dir).equals(score_documents(DOCUMENTS, model_dir))


@torch.no_grad()
def test_a_long_document_is_scored_in_windows_that_overlap_by_half(model_dir):
    text, max_length = TEXTS[7], 64
    tokenizer, model = load_tokenizer(model_dir), load_model(model_dir)
    sequence = torch.tensor([tokenizer.eos_token_id, *tokenizer(text)["input_ids"]])
    targets = len(sequence) - 1
    assert targets > 3 * max_length
    expected = 0.0
    for begin in range(0, targets, max_length // 2):
        window = sequence[begin : begin + max_length + 1]
        log_probabilities = model(window[None, :-1]).logits[0].double().log_softmax(-1)
        losses = -log_probabilities.gather(1, window[1:, None])[:, 0]
        expected += losses[0 if begin == 0 else max_length // 2 :].sum().item()
        if begin + max_length >= targets:
            break
    score = score_documents(DOCUMENTS.slice(7, 1), model_dir, 256, max_length=max_length).to_pylist()[0]
    assert score["n_tokens"] == targets
    assert score["nll"] / targets == pytest.approx(expected / targets, abs=1e-5)


@given(targets=st.integers(1, 500), max_length=st.integers(2, 70))
def test_windows_count_each_token_once_and_give_it_half_a_window_of_context(targets, max_length):
    counted = []
    for window in document_windows(3, targets, max_length):
        assert window.document == 3
        assert 1 <= window.length <= max_length
        assert window.begin == 0 or window.context >= max_length // 2
        counted += range(window.begin + window.context, window.begin + window.length)
    assert counted == list(range(targets))


@given(lengths=st.lists(st.integers(0, 300), max_size=60), budget=st.integers(64, 400))
def test_batches_hold_every_window_once_within_the_budget(lengths, budget):
    windows = windows_of(lengths, max_length=64)
    batches = list(batches_of(windows, budget))
    assert sorted(map(hash, windows)) == sorted(hash(window) for batch in batches for window in batch)
    for batch in batches:
        assert len(batch) * max(window.length for window in batch) <= budget
        assert batch[0].length == max(window.length for window in batch)


def test_only_the_beginning_of_each_document_is_scored_when_that_is_asked_for(model_dir):
    limited = score_documents(DOCUMENTS, model_dir, tokens_per_document=3).to_pylist()
    whole = score_documents(DOCUMENTS, model_dir).to_pylist()
    tokenizer = load_tokenizer(model_dir)
    for few, all_of_them, text in zip(limited, whole, TEXTS, strict=True):
        assert few["n_tokens"] == all_of_them["n_tokens"]
        assert few["n_scored"] == min(3, few["n_tokens"])
        assert all_of_them["n_scored"] == all_of_them["n_tokens"]
        if text:
            first = tokenizer.decode(tokenizer(text)["input_ids"][:3])
            if len(tokenizer(first)["input_ids"]) == few["n_scored"]:  # no character was cut in two
                assert few["nll"] == pytest.approx(loss_alone(model_dir, first), abs=1e-4)
            assert few["perplexity"] == pytest.approx(math.exp(few["nll"] / few["n_scored"]))
            bits = few["nll"] / few["n_scored"] * few["n_tokens"] / few["n_bytes"] / math.log(2)
            assert few["bits_per_byte"] == pytest.approx(bits)


def test_bfloat16_is_used_only_when_asked_for_whatever_the_model_was_saved_in(tmp_path):
    exact, saved_small = save_toy_model(tmp_path / "exact", "mamba2"), tmp_path / "small"
    load_model(exact).bfloat16().save_pretrained(saved_small)
    save_toy_tokenizer(saved_small)
    rounded, rounded_weights = (
        score_documents(DOCUMENTS, folder, score_dtype=dtype)["nll"].to_numpy()
        for folder, dtype in ((exact, "bfloat16"), (saved_small, "float32"))
    )
    reference = score_documents(DOCUMENTS, exact)["nll"].to_numpy()
    np.testing.assert_allclose(rounded, reference, rtol=0.02)
    assert not np.array_equal(rounded, rounded_weights)
    upcast = tmp_path / "upcast"
    load_model(saved_small).float().save_pretrained(upcast)
    save_toy_tokenizer(upcast)
    np.testing.assert_array_equal(rounded_weights, score_documents(DOCUMENTS, upcast)["nll"].to_numpy())


def test_the_scores_of_any_number_of_threads_are_the_same_bits(model_dir):
    one = score_documents(DOCUMENTS, model_dir, token_budget=64, max_length=32)
    torch.set_num_threads(3)
    try:
        assert score_documents(DOCUMENTS, model_dir, token_budget=64, max_length=32).equals(one)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_progress_tells_documents_tokens_per_second_and_time_left(model_dir, monkeypatch):
    monkeypatch.setattr("yunmin_assets.progress.Progress.__init__.__kwdefaults__", {"every": 0.0})
    lines = []
    score_documents(DOCUMENTS, model_dir, token_budget=64, max_length=32, log=lines.append)
    assert any(f"of {len(TEXTS)} documents" in line and "s left" in line for line in lines)
    assert all("tokens/s" in line for line in lines)


def test_a_budget_below_one_window_is_refused(model_dir):
    with pytest.raises(ValueError, match="token_budget 100 holds no window of 1024"):
        score_documents(DOCUMENTS, model_dir, token_budget=100)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    model = toy_model("mamba2")
    model.resize_token_embeddings(100)
    model.save_pretrained(tmp_path)
    save_toy_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="tokenizer needs 300 embeddings, the model has 100"):
        score_documents(DOCUMENTS, tmp_path)


def test_a_broken_model_names_the_document(tmp_path):
    model = toy_model("mamba2")
    with torch.no_grad():
        model.backbone.norm_f.weight[0] = float("nan")
    model.save_pretrained(tmp_path)
    save_toy_tokenizer(tmp_path)
    with pytest.raises(FloatingPointError, match="document 'd0' scores nan"):
        score_documents(DOCUMENTS, tmp_path)


def test_a_model_whose_context_is_shorter_than_a_window_is_refused_with_the_option(tmp_path):
    sizes = {"vocab_size": 300, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(tmp_path)
    save_toy_tokenizer(tmp_path)
    with pytest.raises(ValueError, match=r"at most 64 tokens at once: lower pruning\.max_length .* 65 to 64"):
        score_documents(DOCUMENTS, tmp_path, max_length=65)
    assert score_documents(DOCUMENTS, tmp_path, max_length=64).num_rows == len(TEXTS)
