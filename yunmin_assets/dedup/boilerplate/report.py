"""What repeats in a domain and what of it is boilerplate, for a person to judge before it is removed."""

from dataclasses import dataclass

from yunmin_assets.plots import literal, markdown_table

SHOWN_CHARACTERS = 160


@dataclass(frozen=True)
class RepeatedParagraph:
    """One line of the report."""

    text: str
    """As it stands where it occurs first."""
    is_boilerplate: bool
    documents: int
    """Documents that have it."""
    documents_at_edge: int
    """Documents that have it in the run of repeated paragraphs from their first or their last."""
    text_bytes: int
    """UTF-8 bytes of all its occurrences, without line ends."""


@dataclass(frozen=True)
class BoilerplateReport:
    """Plain values, the same however the documents were cut into batches."""

    documents: int
    """Documents of the domain."""
    text_bytes: int
    """UTF-8 bytes of their texts."""
    threshold: int
    """Documents that make a paragraph a repeated one."""
    repeated_paragraphs: int
    """Different paragraphs that stand in so many documents."""
    repeated_bytes: int
    """UTF-8 bytes of all their occurrences."""
    documents_with_repeated: int
    """Documents with any of them."""
    boilerplate_paragraphs: int
    """Different ones that are boilerplate."""
    boilerplate_bytes: int
    """UTF-8 bytes of boilerplate where the configured position lets it be removed."""
    shown: tuple[RepeatedParagraph, ...]
    """Boilerplate first, then the other repeated paragraphs; the more documents the earlier, equals by text."""

    @property
    def repeated_share(self) -> float:
        """Bytes of repeated paragraphs per byte of text."""
        return self.repeated_bytes / max(self.text_bytes, 1)

    @property
    def boilerplate_share(self) -> float:
        """Bytes of boilerplate per byte of text."""
        return self.boilerplate_bytes / max(self.text_bytes, 1)


def render_boilerplate(report: BoilerplateReport) -> str:
    """The report as Markdown: the totals, then a table of paragraphs."""
    totals = (
        f"{report.repeated_paragraphs:,} paragraphs stand in {report.threshold:,} or more of "
        f"{report.documents:,} documents; {report.documents_with_repeated:,} documents have any: "
        f"{report.repeated_bytes:,} bytes, {report.repeated_share:.2%} of the text. "
        f"{report.boilerplate_paragraphs:,} of them are boilerplate: "
        f"{report.boilerplate_bytes:,} bytes, {report.boilerplate_share:.2%} of the text."
    )
    if not report.shown:
        return totals
    header = ["paragraph", "boilerplate", "documents", "at an edge of", "bytes"]
    rows = [
        (
            literal(_cut(paragraph.text)),
            "yes" if paragraph.is_boilerplate else "no",
            paragraph.documents,
            paragraph.documents_at_edge,
            paragraph.text_bytes,
        )
        for paragraph in report.shown
    ]
    return f"{totals}\n\n{markdown_table(header, rows)}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
