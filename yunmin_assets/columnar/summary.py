"""What a person wants to see of a tokenizer and of the shards written with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yunmin_assets.columnar.tokenizer import open_encoder
from yunmin_assets.parquet_batches import iterate_batches
from yunmin_assets.plots import bars, markdown_table

if TYPE_CHECKING:
    from yunmin_assets.columnar.shards import DomainShards

SAMPLE_DOCUMENTS = 50
SHOWN_CHARACTERS, SHOWN_TOKENS = 40, 24


def describe_tokenization(tokenizer_dir: Path, files: Sequence[Path]) -> tuple[dict[str, float], bool, str]:
    """How far a tokenizer compresses, and that it loses nothing, on the first documents of every file.

    Returns:
        Figures, whether every text came back unchanged, and a Markdown table of one sample per file; a file
        without documents has none.
    """
    encoder = open_encoder(tokenizer_dir)
    characters, tokens, is_exact, rows = 0, 0, True, []
    for path in files:
        texts = _first_texts(path)
        if not texts:
            continue
        encodings = encoder.encode_batch(texts, add_special_tokens=False)
        characters += sum(map(len, texts))
        tokens += sum(len(encoding.ids) for encoding in encodings)
        is_exact &= [
            encoder.decode(encoding.ids, skip_special_tokens=False) for encoding in encodings
        ] == texts
        pieces = [encoder.decode([token]) for token in encodings[0].ids[:SHOWN_TOKENS]]
        rows.append((texts[0][:SHOWN_CHARACTERS], " · ".join(pieces)))
    return (
        {"characters_per_token": characters / max(tokens, 1)},
        is_exact,
        markdown_table(["text", "tokens"], rows),
    )


def _first_texts(path: Path) -> list[str]:
    for batch in iterate_batches(path, ["text"], SAMPLE_DOCUMENTS):
        if batch.num_rows:
            return batch.column(0).to_pylist()
    return []


def describe_shards(written: "DomainShards") -> tuple[dict[str, float], str]:
    """Figures of a domain's two products, and a plot of the tokens per training document."""
    train, validation, documents = written.packed["train"], written.packed["validation"], written.documents
    input_positions = train.rows * train.seq_len
    figures = {
        "train_tokens": train.tokens,
        "train_documents": train.documents,
        "train_rows": train.rows,
        "train_shards": len(train.files),
        "validation_tokens": validation.tokens,
        "validation_documents": validation.documents,
        "validation_rows": validation.rows,
        "padding_tokens": train.padding_tokens,
        "padding_share": train.padding_tokens / input_positions,
        "tokens_per_row": train.seq_len,
        "document_shards": written.document_shards,
        "documents_bytes": written.document_bytes,
        "documents_as_jsonl_bytes": documents.jsonl_bytes,
        "documents_bytes_per_jsonl_byte": written.document_bytes / max(documents.jsonl_bytes, 1),
        "documents_bytes_per_text_byte": written.document_bytes / max(documents.text_bytes, 1),
        "packed_bytes": written.packed_bytes,
        "packed_bytes_per_token": written.packed_bytes / max(train.tokens, 1),
    }
    lengths = {_range_of(lower): count for lower, count in written.document_lengths.items()}
    return figures, bars(lengths, title="tokens per training document", ylabel="documents")


def _range_of(lower: int) -> str:
    """4 stands for the documents of 4 to 7 tokens."""
    return str(lower) if lower < 2 else f"{lower:,}–{2 * lower - 1:,}"
