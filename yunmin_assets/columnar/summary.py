"""What a person wants to see of a tokenizer: how far it compresses, and that it loses nothing."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Tokenizer

from yunmin_assets.columnar.tokenizer import TOKENIZER_FILE
from yunmin_assets.plots import markdown_table

SAMPLE_DOCUMENTS = 50
SHOWN_CHARACTERS, SHOWN_TOKENS = 40, 24


def describe_tokenization(tokenizer_dir: Path, files: Sequence[Path]) -> tuple[dict[str, float], bool, str]:
    """Measure on the first documents of every file.

    Returns:
        Figures, whether every text came back unchanged, and a Markdown table of one sample per file.
    """
    encoder = Tokenizer.from_file(str(tokenizer_dir / TOKENIZER_FILE))
    encoder.encode_special_tokens = True
    encoder.no_truncation()  # a tokenizer that was taken over may cut or pad
    encoder.no_padding()
    characters, tokens, is_exact, rows = 0, 0, True, []
    for path in files:
        texts = (
            pq.ParquetFile(path).read_row_group(0, ["text"])["text"].slice(0, SAMPLE_DOCUMENTS).to_pylist()
        )
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
