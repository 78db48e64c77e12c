import ast
import hashlib
import os
import subprocess
import sys
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.columnar.toy_domain import with_gap_in_ids
from yunmin_assets.columnar import (
    PackConfig,
    TokenizerConfig,
    pack_documents,
    tokenize_documents,
    tokenizer,
    tokenizer_hash,
    train_tokenizer,
)

TEXTS = [
    "안녕하세요. 오늘 날씨가 참 좋네요!",
    "나라의 말이 중국과 달라",
    "Hello, world! 123",
    "가나다라 마바사",
] * 20
CONFIG = TokenizerConfig(vocab_size=400)

korean = st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3) | st.sampled_from(" .,\n0a"))
decomposed = korean.map(lambda text: unicodedata.normalize("NFD", text))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "trained"
    return folder, train_tokenizer(iter(TEXTS), CONFIG, folder)


@pytest.fixture(scope="module")
def opened(trained):
    return AutoTokenizer.from_pretrained(trained[0])


def test_a_trained_tokenizer_opens_with_transformers(trained):
    folder, summary = trained
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|endoftext|>", 0, 0)
    assert len(tokenizer) == summary.vocab_size <= 400
    assert (summary.eos_id, summary.end_of_text) == (0, "<|endoftext|>")
    assert summary.trained_on_documents == len(TEXTS)


def test_training_finds_words_that_repeat(trained):
    folder, summary = trained
    assert summary.vocab_size > 257  # 256 bytes and the end of text
    (ids,) = tokenize_documents(pa.table({"text": ["안녕하세요"]}), folder)
    assert len(ids) < len("안녕하세요".encode())


@given(korean | decomposed | st.text())
@settings(max_examples=300, deadline=None)
def test_every_text_comes_back_exactly(trained, opened, text):
    (ids,) = tokenize_documents(pa.table({"text": [text]}), trained[0])
    assert opened.decode(ids.tolist()) == text


def test_spaces_before_punctuation_stay(opened):
    text = "가 . 나 , 다 ! do n't  "
    assert opened.decode(opened(text)["input_ids"]) == text


def test_two_processes_train_the_same_bytes(trained, tmp_path):
    code = (
        "import sys; from pathlib import Path;"
        "from yunmin_assets.columnar import TokenizerConfig, train_tokenizer;"
        f"train_tokenizer(iter({TEXTS!r}), TokenizerConfig(vocab_size=400), Path(sys.argv[1]))"
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], env=environment, check=True)
    files = {path.name: path.read_bytes() for path in trained[0].iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == files
    assert "tokenizer.json" in files


def test_the_hash_is_that_of_tokenizer_json(trained):
    folder, summary = trained
    expected = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert tokenizer_hash(folder) == summary.sha256 == expected


def test_documents_get_the_ids_that_transformers_gives(trained):
    tokenizer = AutoTokenizer.from_pretrained(trained[0])
    found = [ids.tolist() for ids in tokenize_documents(pa.table({"text": TEXTS}), trained[0])]
    assert found == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_a_table_and_a_stream_of_batches_give_the_same(trained):
    table = pa.table({"text": TEXTS, "id": [str(number) for number in range(len(TEXTS))]})
    stream = iter(table.to_batches(max_chunksize=7))
    whole = [ids.tolist() for ids in tokenize_documents(table, trained[0])]
    assert [ids.tolist() for ids in tokenize_documents(stream, trained[0])] == whole


def test_batches_are_cut_by_the_bytes_of_their_texts(trained, monkeypatch):
    texts = ["가" * length for length in (10, 400, 5, 5, 5, 300, 300, 0, 7)] * 3
    whole = [ids.tolist() for ids in tokenize_documents(pa.table({"text": texts}), trained[0])]
    monkeypatch.setattr(tokenizer, "BATCH_TEXT_BYTES", 1000)
    batches = [*tokenizer.tokenize_batches(pa.table({"text": texts}).to_batches(), trained[0])]
    assert [ids.tolist() for batch in batches for ids in batch.split()] == whole
    assert [text for batch in batches for text in batch.documents["text"].to_pylist()] == texts
    sizes = [sum(len(text.encode()) for text in batch.documents["text"].to_pylist()) for batch in batches]
    assert all(
        size <= 1000 or batch.documents.num_rows == 1 for size, batch in zip(sizes, batches, strict=True)
    )
    assert max(batch.documents.num_rows for batch in batches) > 3


def test_one_core_gives_the_same_ids_as_all_of_them(trained):
    code = (
        "import sys, pyarrow as pa; from pathlib import Path;"
        "from yunmin_assets.columnar import tokenize_documents;"
        f"documents = tokenize_documents(pa.table({{'text': {TEXTS!r}}}), Path(sys.argv[1]));"
        "print([ids.tolist() for ids in documents])"
    )
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(trained[0])]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found = [ids.tolist() for ids in tokenize_documents(pa.table({"text": TEXTS}), trained[0])]
    assert ast.literal_eval(done.stdout) == found


def test_tokenising_needs_neither_transformers_nor_torch():
    code = (
        "import sys, yunmin_assets.columnar.shards;"
        "print(sorted({'torch', 'transformers', 'dagster'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_text_can_spell_the_end_of_a_document(trained):
    text = "앞<|endoftext|>뒤"
    (ids,) = tokenize_documents(pa.table({"text": [text]}), trained[0])
    assert 0 not in ids
    assert AutoTokenizer.from_pretrained(trained[0]).decode(ids.tolist()) == text


def test_an_empty_text_has_no_tokens(trained):
    (ids,) = tokenize_documents(pa.table({"text": [""]}), trained[0])
    assert (ids.shape, ids.dtype) == ((0,), "uint32")


def test_documents_without_text_are_refused(trained):
    batches = [pa.record_batch({"text": texts}) for texts in (["가", "나"], ["다", None, None])]
    with pytest.raises(ValueError, match=r"^document 3: text is null; mend or remove it"):
        list(tokenize_documents(batches, trained[0]))
    broken = pa.array(["가".encode(), b"a\xff"]).view(pa.string())
    with pytest.raises(ValueError, match=r"^document 1 \(id 'y'\): text is not UTF-8 at byte 1; mend or"):
        list(tokenize_documents(pa.table({"id": ["x", "y"], "text": broken}), trained[0]))
    with pytest.raises(ValueError, match="no column 'text'"):
        list(tokenize_documents(pa.table({"body": ["가"]}), trained[0]))


def test_an_existing_tokenizer_is_taken_over_as_it_is(trained, tmp_path):
    summary = train_tokenizer(iter(()), TokenizerConfig(path=trained[0]), tmp_path / "copy")
    assert summary.sha256 == trained[1].sha256
    assert summary.trained_on_documents == 0


def test_the_vocabulary_of_a_tokenizer_with_gaps_in_its_ids_reaches_up_to_the_largest(trained, tmp_path):
    source = with_gap_in_ids(trained[0], tmp_path / "gaps")
    summary = train_tokenizer(iter(()), TokenizerConfig(path=source), tmp_path / "copy")
    assert summary.vocab_size == trained[1].vocab_size + 10
    tokens = [*tokenize_documents(pa.table({"text": TEXTS}), tmp_path / "copy")]
    assert max(ids.max() for ids in tokens) >= trained[1].vocab_size
    config = PackConfig(seq_len=8, vocab_size=summary.vocab_size, eos_id=summary.eos_id)
    assert pack_documents(tokens, tmp_path / "packed", config).documents == len(TEXTS)


def test_a_tokenizer_whose_end_of_text_a_text_can_spell_is_refused(tmp_path):
    pieces = ["</s>", "<unk>", "가", "▁", "<", "/", "s", ">"]
    unigram = Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], unk_id=1))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=unigram, eos_token="</s>").save_pretrained(tmp_path / "unigram")
    with pytest.raises(
        ValueError, match=r"unigram: a text that contains '</s>' gets the id of the end-of-text"
    ):
        train_tokenizer(iter(()), TokenizerConfig(path=tmp_path / "unigram"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path):
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"bare: this tokenizer has no end-of-text token"):
        train_tokenizer(iter(()), TokenizerConfig(path=tmp_path / "bare"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer.json"):
        train_tokenizer(iter(()), TokenizerConfig(path=tmp_path), tmp_path / "copy")


def test_training_on_nothing_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="training split is empty"):
        train_tokenizer(iter(()), CONFIG, tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
