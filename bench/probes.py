"""Source probes: what a set of features still knows about a domain. Tensors in, numbers out.

A probe never sees a model or a file: it takes the features of a labelled *bank* and of labelled *queries* and returns
accuracies in percent. The protocol of the weighted k-NN is the one of DINO (Caron et al. 2021, arXiv 2104.14294,
appendix F.1; weights after Wu et al. 2018, arXiv 1805.01978, section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULT_KS = (10, 20, 100, 200)
HEADLINE_K = 20
TEMPERATURE = 0.07
CHUNK_ELEMENTS = 1 << 24  # similarities held at once: 64 MiB in float32


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    temperature: float = TEMPERATURE,
) -> dict[int, tuple[float, float]]:
    """Weighted k-NN accuracy of the queries against the bank, for all ``ks`` in one pass.

    Features are L2-normalised here; the similarity is the cosine; each of the k nearest bank images votes
    ``exp(similarity / temperature)`` for its label, and the labels are ranked by their votes. Labels without a vote
    are never predicted: with fewer than five labels among the neighbours, top-5 looks at those alone.

    Args:
        bank: features of the labelled images, ``[n, d]``, any floating type.
        bank_labels: ``[n]``, integers from 0.
        queries: ``[m, d]`` on the same device.
        query_labels: ``[m]``.
        ks: numbers of neighbours, each from 1 to n.
        temperature: of the votes, above 0.

    Returns:
        ``{k: (top1, top5)}`` in percent of the m queries.

    Raises:
        ValueError: shapes do not agree, a set is empty, a ``k`` is out of range, or a feature is not finite.
    """
    _check(bank, bank_labels, queries, query_labels, ks, temperature)
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    correct = {k: torch.zeros(2, dtype=torch.int64, device=bank.device) for k in ks}
    for rows in _chunks(len(queries), len(bank)):
        similarities, neighbours = _nearest(queries[rows], bank, max(ks))
        votes = (similarities / temperature).exp()
        labels = bank_labels[neighbours]
        for k in ks:
            correct[k] += _hits(votes[:, :k], labels[:, :k], query_labels[rows])
    return {k: (100 * int(c[0]) / len(queries), 100 * int(c[1]) / len(queries)) for k, c in correct.items()}


def _check(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    ks: Sequence[int],
    temperature: float,
) -> None:
    if bank.ndim != 2 or queries.ndim != 2 or bank.shape[1] != queries.shape[1]:
        raise ValueError(f"features must be [n, d] and [m, d], not {[*bank.shape]} and {[*queries.shape]}")
    if not len(bank) or not len(queries):
        raise ValueError(f"k-NN needs a bank and queries, not {len(bank)} and {len(queries)} images")
    if bank_labels.shape != (len(bank),) or query_labels.shape != (len(queries),):
        raise ValueError(
            f"one label an image: {[*bank_labels.shape]} and {[*query_labels.shape]} labels "
            f"for {len(bank)} and {len(queries)} images"
        )
    if not ks or min(ks) < 1 or max(ks) > len(bank):
        raise ValueError(f"every k must lie in 1..{len(bank)} (the bank's size), not {list(ks)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    if not (torch.isfinite(bank).all() and torch.isfinite(queries).all()):
        raise ValueError("the features hold NaN or infinite values: the model has diverged")


def _chunks(queries: int, bank: int) -> Iterator[slice]:
    """Slices of the queries whose similarities to one bank shard stay below CHUNK_ELEMENTS."""
    size = max(1, CHUNK_ELEMENTS // min(bank, CHUNK_ELEMENTS // 64))
    for start in range(0, queries, size):
        yield slice(start, min(start + size, queries))


def _nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and bank indices of the k nearest, best first, both [q, k]; the bank is streamed in shards."""
    shard = max(k, CHUNK_ELEMENTS // max(1, len(queries)))
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(bank), shard):
        similarity = queries @ bank[start : start + shard].T
        values, indices = similarity.topk(min(k, similarity.shape[1]), dim=1)
        indices = indices + start
        if best is not None:
            values, indices = torch.cat([best[0], values], 1), torch.cat([best[1], indices], 1)
            values, chosen = values.topk(min(k, values.shape[1]), dim=1)
            indices = indices.gather(1, chosen)
        best = values, indices
    assert best is not None
    return best


def _hits(votes: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
    """Queries whose true label is ranked first, and among the first five: int64 [2].

    Votes are added up within each row by sorting its labels, so that the cost depends on k and not on the number of
    classes. A tie goes to the smaller label, as with a stable ranking of the full vote table.
    """
    labels, order = labels.sort(dim=1, stable=True)
    votes = votes.gather(1, order)
    first = torch.ones_like(labels, dtype=torch.bool)
    first[:, 1:] = labels[:, 1:] != labels[:, :-1]
    group = first.cumsum(1) - 1
    totals = torch.zeros_like(votes).scatter_add_(1, group, votes)
    names = torch.full_like(labels, -1).scatter_(1, group, labels)
    ranked = totals.sort(dim=1, descending=True, stable=True).indices[:, :5]
    right = names.gather(1, ranked) == truth[:, None]
    return torch.stack([right[:, :1].any(1).sum(), right.any(1).sum()])
