"""Options of `raw_corpus` and `clean_corpus`."""

from pydantic import Field

from yunmin_assets.config_model import ConfigModel


class CorpusConfig(ConfigModel):
    """How raw objects are read and cleaned."""

    min_characters: int = Field(default=80, ge=1)
    """Shorter documents are removed, in characters after cleaning. SlimPajama's 200 Latin characters carry
    about as much text as 80 Hangul syllables."""
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    """Share of unreadable lines above which the domain fails."""
    documents_per_file: int = Field(default=100_000, ge=1)
    """Documents in one Parquet file of `clean_corpus`."""
