"""Options of the columnar stage."""

from typing import Any, Literal

from pydantic import Field

from yunmin_assets.config_model import ConfigModel, Location


class TokenizerConfig(ConfigModel):
    """A byte-level BPE trained here, or the tokenizer of an existing model."""

    path: Location | None = None
    """Folder, or `s3://` prefix, of a Hugging Face tokenizer to take over; when given, nothing is trained."""
    vocab_size: int = Field(default=4096, ge=300)
    end_of_text: str = "<|endoftext|>"


class PackOptions(ConfigModel):
    """Layout of the packed product, as far as it does not depend on the tokenizer.

    A row holds `seq_len` + 1 tokens, so that a row alone gives inputs and labels.
    """

    seq_len: int = Field(default=2048, ge=1)
    seed: int = Field(default=0, ge=0)
    compression: Literal["zstd", "none"] = "zstd"
    page_bytes: int = Field(default=64 * 1024, ge=1)
    rows_per_row_group: int = Field(default=4096, ge=1)
    shard_bytes: int = Field(default=192 * 1024 * 1024, ge=1)
    """Uncompressed bytes, of tokens or of text, after which a new shard is begun."""
    shuffle_memory_mb: float = Field(default=256, gt=0)
    """Memory of the shuffle at write, in units of 1024² bytes; the result does not depend on it."""

    def fingerprint_options(self) -> dict[str, Any]:
        """The options that the result depends on, as JSON values."""
        return self.model_dump(mode="json", exclude={"shuffle_memory_mb"})


class PackConfig(PackOptions):
    """Layout of the packed product for a given tokenizer."""

    vocab_size: int = Field(default=64_000, ge=2)
    eos_id: int = Field(default=0, ge=0)
