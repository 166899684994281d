"""Source probes: what a set of features still knows about a domain. Tensors in, numbers out.

A probe never sees a model or a file: it takes the features of a labelled *bank* and of labelled *queries* and returns
accuracies in percent. The protocol of the weighted k-NN is the one of DINO (Caron et al. 2021, arXiv 2104.14294,
appendix F.1; weights after Wu et al. 2018, arXiv 1805.01978, section 3.4).

The search is exact and streams: the bank is read in blocks that are normalised as they pass, so that beside the two
sets there is only one block of similarities and, for every query, its k best so far. A bank that is spread over several
processes is searched where it lies (:func:`nearest`); the candidates of all of them are then put side by side, cut down
again (:func:`best`), and asked to vote (:func:`hits`). Of equal similarities the lower bank index counts as nearer, so
that the result does not depend on blocks or processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULT_KS = (10, 20, 100, 200)
TEMPERATURE = 0.07
DIVERGED = "the features hold NaN or infinite values: the model has diverged"
BLOCK_QUERIES = 1024
BLOCK_BANK = 8192
"""Similarities held at once are a block of both, 32 MiB in float32."""

CUDA_QUERIES, CUDA_BANK = 4096, 32_768
"""The same on a GPU, 512 MiB: small blocks leave it waiting for the host (``make gpu`` measures other sizes)."""

GROUP = 64
"""The maximum of so many columns of a block stands for them when a first lower bound is looked for."""

LOWEST = torch.iinfo(torch.int64).min
"""This is below every key: it fills the place of a neighbour that a bank of fewer than k images does not have."""

_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


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
        bank: features of the labelled images, ``[n, d]``, any floating type; they are compared in float32.
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
    return percentages(knn_hits(bank, bank_labels, queries, query_labels, ks=ks, temperature=temperature))


def knn_hits(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    temperature: float = TEMPERATURE,
) -> dict[int, Tensor]:
    """:func:`knn_accuracy` query by query: ``{k: bool [m, 2]}``, whether top-1 and top-5 are right."""
    _check(bank, bank_labels, queries, query_labels, ks, temperature)
    if not (finite(bank) and finite(queries)):
        raise ValueError(DIVERGED)
    keys = nearest(queries, bank, max(ks))
    return hits(keys, bank_labels, query_labels, ks=ks, temperature=temperature)


def percentages(found: Mapping[int, Tensor]) -> dict[int, tuple[float, float]]:
    """Shares of the queries that are right: ``{k: (top1, top5)}`` in percent.

    Args:
        found: ``{k: bool [m, 2]}``, see :func:`hits`.
    """
    counts = {k: (len(right), right.sum(0).tolist()) for k, right in found.items()}
    return {k: (100 * top1 / m, 100 * top5 / m) for k, (m, (top1, top5)) in counts.items()}


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


def finite(features: Tensor) -> bool:
    """Whether every feature is a finite number, and small enough for its norm to be one in float32.

    Block by block and through the norms, which reads the features once and copies none of them.
    """
    blocks = features.split(BLOCK_BANK)
    return all(bool(torch.linalg.vector_norm(part.float(), dim=1).isfinite().all()) for part in blocks)


def nearest(queries: Tensor, bank: Tensor, k: int, *, start: int = 0, step: int = 1) -> Tensor:
    """The k nearest bank images of every query, exactly.

    Args:
        queries: finite features ``[m, d]``.
        bank: finite features ``[n, d]``; row i is bank image ``start + i * step`` of at most 2**32.

    Returns:
        Keys, int64 ``[m, k]``, best first: a key holds a similarity above an index (see :func:`unpack`), so that keys
        order neighbours by similarity, and equal ones by index. Places that the bank cannot fill hold ``LOWEST``.
    """
    queries = F.normalize(queries.float(), dim=1)
    keys = torch.full((len(queries), k), LOWEST, dtype=torch.int64, device=queries.device)
    rows, most = (CUDA_QUERIES, CUDA_BANK) if queries.is_cuda else (BLOCK_QUERIES, BLOCK_BANK)
    size = max(most, 2 * k)  # the first block fills all k places, or is the whole bank
    for first in range(0, len(bank), size):
        columns = F.normalize(bank[first : first + size].float(), dim=1).T
        indices = start + step * torch.arange(first, first + columns.shape[1], device=keys.device)
        for mine, part in zip(keys.split(rows), queries.split(rows), strict=True):
            similarity = part @ columns
            if first == 0:
                candidates = similarity >= _lower_bound(similarity, k)[:, None]
            else:  # an equal similarity of a later image changes nothing
                candidates = similarity > unpack(mine[:, -1:])[0]
            mine.copy_(best(torch.cat([mine, _table(similarity, candidates, indices)], 1), k))
    return keys


def best(keys: Tensor, k: int) -> Tensor:
    """The k best of several candidates for every query, best first; keys differ, so there is only one answer."""
    return keys.topk(k, dim=1).values


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities (float32) and bank indices (int64) of some keys."""
    ordered = (keys >> _INDEX_BITS).to(torch.int32)
    return _flip(ordered).view(torch.float32), _INDEX_MASK - (keys & _INDEX_MASK)


def _pack(similarity: Tensor, indices: Tensor) -> Tensor:
    ordered = _flip((similarity + 0.0).view(torch.int32))  # -0.0 becomes 0.0, which it equals
    return (ordered.long() << _INDEX_BITS) | (_INDEX_MASK - indices)


def _flip(bits: Tensor) -> Tensor:
    """Turn the bits of floats into integers of the same order, and back: those of negative numbers run backwards."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _lower_bound(similarity: Tensor, k: int) -> Tensor:
    """A number for every row that at least k of its entries reach, and not many more.

    It is the k-th largest maximum of groups of columns: far cheaper than the k-th largest entry.
    """
    width = similarity.shape[1]
    if width < k:
        return similarity.new_full((len(similarity),), -torch.inf)
    group = max(1, min(GROUP, width // (2 * k)))
    maxima = similarity[:, : width // group * group].unflatten(1, (-1, group)).amax(2)
    bound: Tensor = maxima.topk(k, dim=1).values[:, -1]
    return bound


def _table(similarity: Tensor, candidates: Tensor, indices: Tensor) -> Tensor:
    """Keys of the candidates of every row, moved to the left and filled up with ``LOWEST``."""
    rows, columns = candidates.nonzero(as_tuple=True)
    counts = rows.bincount(minlength=len(similarity))
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    table = torch.full((len(similarity), int(counts.max())), LOWEST, dtype=torch.int64, device=rows.device)
    table[rows, place] = _pack(similarity[rows, columns], indices[columns])
    return table


def hits(
    keys: Tensor,
    bank_labels: Tensor,
    query_labels: Tensor,
    *,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, Tensor]:
    """Let the neighbours vote.

    Args:
        keys: of every query's nearest bank images, best first, ``[m, max(ks)]``, see :func:`nearest`.
        bank_labels: labels of the whole bank.
        query_labels: ``[m]``.

    Returns:
        ``{k: bool [m, 2]}``: whether each query's true label is ranked first, and among the first five.
    """
    found: dict[int, list[Tensor]] = {k: [] for k in ks}
    for part, truth in zip(keys.split(BLOCK_QUERIES), query_labels.split(BLOCK_QUERIES), strict=True):
        similarity, neighbours = unpack(part)
        votes, labels = _votes(similarity, temperature), bank_labels[neighbours]
        for k in ks:
            found[k].append(_hits(votes[:, :k], labels[:, :k], truth))
    return {k: torch.cat(parts) for k, parts in found.items()}


def _votes(similarity: Tensor, temperature: float) -> Tensor:
    """Votes of neighbours, best first, as integers whose sums fit int64: int64 ``[q, k]``.

    Only ratios within a row matter, so the nearest neighbour's vote is the unit. Sums of integers do not depend on
    their order, which a GPU does not keep.
    """
    unit = 2 ** (62 - similarity.shape[1].bit_length())
    exact = similarity.double()
    votes: Tensor = ((exact - exact[:, :1]) / temperature).exp() * unit
    return votes.round().long()


def _hits(votes: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
    """Whether each query's true label is ranked first, and among the first five: bool ``[q, 2]``.

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
    return torch.stack([right[:, :1].any(1), right.any(1)], 1)
