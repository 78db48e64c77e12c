"""From `doc_start` of a batch to what a model needs to keep documents apart.

A row holds the end of one document and the beginnings of others. A recurrent state, or attention, that goes
on from one to the next learns from text that has nothing to do with it. Kernels take the boundaries as:

    doc_start              T . . T . . . T     (the row's first token may go on with an earlier document)
    document_numbers       0 0 0 1 1 1 1 2     `seq_idx` of mamba_ssm and of transformers' Mamba 2 and Bamba
    position_ids           0 1 2 0 1 2 3 0     `position_ids` of transformers
    document_ends          0 3 7 8             `cu_seqlens` of kernels that take the batch as one sequence
"""

import torch


def document_numbers(doc_start: torch.Tensor) -> torch.Tensor:
    """Which of the row's documents each token belongs to, counted from 0.

    Args:
        doc_start: bool [B, L].

    Returns:
        int32 [B, L].
    """
    begins = doc_start.clone()
    begins[:, :1] = False  # whatever a row begins with has the number 0
    return begins.cumsum(dim=1, dtype=torch.int32)


def position_ids(doc_start: torch.Tensor) -> torch.Tensor:
    """How many tokens of the same document lie before each token in its row.

    Args:
        doc_start: bool [B, L].

    Returns:
        int64 [B, L].
    """
    places = torch.arange(doc_start.shape[1], device=doc_start.device).expand(doc_start.shape)
    latest_start = torch.where(doc_start, places, 0).cummax(dim=1).values
    return places - latest_start


def document_ends(doc_start: torch.Tensor) -> torch.Tensor:
    """0, and where each document ends when the rows are laid one after the other.

    Args:
        doc_start: bool [B, L].

    Returns:
        int32 [pieces of documents + 1]; every row ends a piece.
    """
    begins = doc_start.clone()
    begins[:, :1] = True
    starts = begins.flatten().nonzero().flatten()
    return torch.cat([starts, starts.new_tensor([doc_start.numel()])]).to(torch.int32)
