"""Options of the search for paragraphs that repeat over many documents."""

from typing import Literal

from pydantic import Field

from yunmin_assets.config_model import ConfigModel


class BoilerplateConfig(ConfigModel):
    """Which paragraphs of a domain repeat, which of them are boilerplate, and what becomes of it.

    The report is made in any case.
    """

    remove: bool = False
    """Take boilerplate out of the texts."""
    position: Literal["edges", "anywhere"] = "edges"
    """`edges`: boilerplate is headers and footers, in the unbroken run of repeated paragraphs from the first or
    the last paragraph of a document. `anywhere`: whatever repeats, also a clause or a line of code."""
    min_documents: int = Field(default=10, ge=2)
    """A paragraph of fewer documents does not count as repeated."""
    min_share: float = Field(default=0.005, ge=0, le=1)
    """Nor does one of a smaller share of the domain's documents."""
    min_characters: int = Field(default=12, ge=1)
    """Nor does a shorter one, in characters as they are compared: without punctuation and surplus space."""
    min_edge_share: float = Field(default=0.5, ge=0, le=1)
    """A header or footer stands at an edge in this share of the documents that have it, or more: a clause that
    happens to end some of them is no footer."""
