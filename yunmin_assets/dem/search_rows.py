"""The validation rows of a weight search: some choose the weights, others judge them.

Rows are cut from documents that were packed one after the other and shuffled, so a document longer than a row may lie
on both sides. What the chosen weights are worth must be measured on test documents.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from yunmin_assets.language_model.loss import IGNORED_LABEL, Batch

FEWEST_ROWS = 2
"""One that chooses and one that judges."""


@dataclass(frozen=True)
class DomainRows:
    """Rows of one domain."""

    inputs: torch.Tensor
    """int64 [rows, length]."""
    labels: torch.Tensor
    """int64 [rows, length]: the inputs shifted by one; padding is -100."""

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def size(self) -> int:
        """Positions that go through the model when all rows do."""
        return self.inputs.numel()

    @property
    def labelled(self) -> torch.Tensor:
        """int64 [rows]: tokens of each row on which a loss is taken."""
        return (self.labels != IGNORED_LABEL).sum(dim=1)

    def pick(self, chosen: torch.Tensor | slice) -> "DomainRows":
        return DomainRows(self.inputs[chosen], self.labels[chosen])

    def batches(self, size: int) -> Iterator["DomainRows"]:
        for first in range(0, len(self), size):
            yield self.pick(slice(first, first + size))


Rows = Mapping[str, DomainRows]


def count_rows(rows: Rows) -> int:
    """Over all domains."""
    return sum(len(of_domain) for of_domain in rows.values())


def count_tokens(rows: Rows) -> int:
    """That go through the model when all rows do."""
    return sum(of_domain.size for of_domain in rows.values())


def split_rows(
    validation: Mapping[str, Iterable[Batch]], search: int, comparison: int, device: torch.device
) -> tuple[dict[str, DomainRows], dict[str, DomainRows]]:
    """The first rows of each domain for the search, and as many others as wanted for the comparison.

    A domain with fewer than `search + comparison` rows is cut in halves.

    Args:
        validation: Packed batches by domain.
        search, comparison: Rows wanted of each domain.
        device: Where the rows go.

    Raises:
        ValueError: There is no domain, one has fewer than two rows or a row without a label, or rows differ in length.
    """
    if not validation:
        raise ValueError("no validation data given: the weights need at least one domain to be measured on")
    chosen, judging = {}, {}
    for domain in sorted(validation):
        rows = _first_rows(domain, validation[domain], search + comparison, device)
        is_enough = len(rows) >= search + comparison
        first = search if is_enough else min(search, len(rows) // 2)
        chosen[domain] = rows.pick(slice(first))
        judging[domain] = rows.pick(slice(first, first + comparison))
    lengths = {domain: rows.inputs.shape[1] for domain, rows in chosen.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the validation rows differ in length ({lengths}): pack all domains with one seq_len"
        )
    return chosen, judging


def _first_rows(domain: str, batches: Iterable[Batch], wanted: int, device: torch.device) -> DomainRows:
    inputs: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    for batch in batches:
        inputs += torch.as_tensor(batch["input_ids"])
        labels += torch.as_tensor(batch["labels"])
        if len(inputs) >= wanted:
            break
    if len(inputs) < FEWEST_ROWS:
        raise ValueError(
            f"the validation data of {domain!r} holds {len(inputs)} rows, but weights need {FEWEST_ROWS}, one to be "
            "searched on and one to be compared on: raise splits.validation, lower pack.seq_len, or deliver more text"
        )
    rows = DomainRows(torch.stack(inputs[:wanted]).to(device), torch.stack(labels[:wanted]).to(device))
    if not bool(rows.labelled.all()):
        raise ValueError(
            f"row {int((rows.labelled == 0).nonzero()[0])} of the validation data of {domain!r} carries no label: "
            "leave rows of nothing but padding out"
        )
    return rows
