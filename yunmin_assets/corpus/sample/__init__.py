"""A synthetic Korean corpus with known duplicates, so that the whole graph runs without downloading anything.

`write_sample_corpus(folder)` writes five domains of about 2,000 documents each, in five registers, from the
templates in `domains/*.yaml`, in a few seconds and with the same bytes for the same seed. Copies and near
copies are planted, and `_truth/pairs.parquet` holds every pair of documents that come from one original,
with its exact resemblance. Nobody wrote or said these texts: every document says `synthetic:yunmin-sample`
and CC0-1.0.
"""

from typing import TYPE_CHECKING

from yunmin_assets.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from yunmin_assets.corpus.sample.writer import SampleSummary, write_sample_corpus

__all__ = ["SampleSummary", "write_sample_corpus"]

__getattr__ = lazy_exports(__name__, dict.fromkeys(__all__, "writer"))
