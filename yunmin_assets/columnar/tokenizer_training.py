"""Train a byte-level BPE tokenizer, or take one over.

- Byte-level BPE (Radford et al. 2019, GPT-2): the alphabet is the 256 bytes, so no text is unknown.
- Lossless: there is no normaliser, so `decode(encode(text)) == text` for every text, decomposed Korean (NFD)
  included. Bringing text to NFC is the work of `clean_corpus`, where it is counted.
- Deterministic: equal texts in equal order give the same `tokenizer.json`, on any number of threads.
- The end-of-text token has id 0 and pads as well.

Price: training keeps every distinct word of the texts in memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from yunmin_assets.columnar.config import TokenizerConfig
from yunmin_assets.columnar.tokenizer import TOKENIZER_FILE, open_encoder, tokenizer_hash
from yunmin_assets.files import new_folder
from yunmin_assets.language_model.tokenizer import vocabulary_size
from yunmin_assets.progress import Log, silent, track


@dataclass(frozen=True)
class TokenizerSummary:
    """What a tokenizer folder holds."""

    vocab_size: int
    """One more than the largest id. Smaller than asked when the texts have too few pairs."""
    eos_id: int
    end_of_text: str
    trained_on_documents: int
    """0 for a tokenizer that was taken over."""
    sha256: str
    """`tokenizer_hash` of the folder."""


def train_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, out_dir: Path, log: Log = silent
) -> TokenizerSummary:
    """Train a byte-level BPE on `texts`, or take over the tokenizer at `config.path`, and save it.

    Args:
        texts: training texts, read once; not touched when `config.path` is given.
        out_dir: folder to create; `transformers.AutoTokenizer.from_pretrained(out_dir)` opens it.

    Raises:
        ValueError: no text to train on; the tokenizer to take over has no `tokenizer.json` or no end-of-text
            token, or one that a text can spell.
        FileExistsError: `out_dir` already holds something.
    """
    with new_folder(out_dir) as part:
        if config.path is not None:
            documents, tokenizer = 0, _existing_tokenizer(Path(config.path))
        else:
            documents, tokenizer = _trained_tokenizer(texts, config, log)
        tokenizer.save_pretrained(part)
        _refuse_spelled_end_of_text(part, tokenizer, config)
    return TokenizerSummary(
        vocab_size=vocabulary_size(tokenizer),
        eos_id=tokenizer.eos_token_id,
        end_of_text=tokenizer.eos_token,
        trained_on_documents=documents,
        sha256=tokenizer_hash(out_dir),
    )


def _trained_tokenizer(
    texts: Iterable[str], config: TokenizerConfig, log: Log
) -> tuple[int, PreTrainedTokenizerBase]:
    documents = 0

    def counted() -> Iterator[str]:
        nonlocal documents
        for text in track(texts, log, "documents"):
            documents += 1
            yield text

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[config.end_of_text],  # special tokens come first: id 0
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(counted(), trainer)
    if documents == 0:
        raise ValueError("no text to train a tokenizer on: the training split is empty")
    return documents, PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=config.end_of_text,
        pad_token=config.end_of_text,
        clean_up_tokenization_spaces=False,  # it would drop spaces before punctuation
    )


def _existing_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    if not (path / TOKENIZER_FILE).is_file():
        raise ValueError(
            f"{path}: no {TOKENIZER_FILE} in this folder; save the model's *fast* tokenizer there"
        )
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{path}: this tokenizer has no end-of-text token (eos_token), so documents cannot be joined"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _refuse_spelled_end_of_text(
    folder: Path, tokenizer: PreTrainedTokenizerBase, config: TokenizerConfig
) -> None:
    """Refuse a vocabulary in which the end-of-text token is also an ordinary piece, as in unigram models.

    Its spelling in a text would become its id, and end the document there.
    """
    spelled = [tokenizer.eos_token, f"가 {tokenizer.eos_token} 가"]
    encodings = open_encoder(folder).encode_batch(spelled, add_special_tokens=False)
    if any(tokenizer.eos_token_id in encoding.ids for encoding in encodings):
        raise ValueError(
            f"{config.path or 'the new tokenizer'}: a text that contains {tokenizer.eos_token!r} gets the id of "
            "the end-of-text token; choose a tokenizer whose model does not have it as an ordinary piece"
        )
