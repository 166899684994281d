"""Retention: how well features still tell the source's classes apart, by weighted k-NN over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from bench import cache, parallel
from bench.data import Source, Split
from bench.measuring import knn
from bench.measuring.circumstances import circumstances
from bench.measuring.features import extract, read_mine
from bench.models import Preprocess
from bench.readings import HEADLINE_K, headline_of, packed
from bench.training import Shared, tensor_cores
from bench.vit import Vit


@dataclass(frozen=True)
class SourceScore:
    """k-NN retention: ``{k: (top1, top5)}`` in percent, and the headline ``accuracy`` (top-1 at k = 20)."""

    by_k: Annotated[Mapping[int, tuple[float, float]], Field(min_length=1)]
    right: str
    """Which queries the headline gets right, see :attr:`bench.readings.Answers`."""

    @classmethod
    def of(cls, hits: Mapping[int, Tensor]) -> SourceScore:
        """The score that some queries make, ``{k: bool [m, 2]}`` (see :func:`bench.measuring.knn.hits`)."""
        return cls(knn.percentages(hits), packed(hits[headline_of(hits)][:, 0].cpu().numpy()))

    @property
    def accuracy(self) -> float:
        """Top-1 in percent at the headline k, or at the largest k that a small bank allows."""
        return self.by_k[headline_of(self.by_k)][0]


KEPT = TypeAdapter(SourceScore)
"""Scores as they are kept."""


def source_score(
    vit: Vit,
    source: Source,
    queries: Split,
    preprocess: Preprocess,
    device: torch.device,
    shared: Shared | None = None,
    *,
    ks: Sequence[int] = knn.DEFAULT_KS,
) -> SourceScore:
    """How well the features still tell the source's classes apart: weighted k-NN of the queries in the bank.

    Every rank keeps the bank features that it extracted itself; the queries go to all of them.

    Args:
        shared: see :func:`bench.measuring.features.read_mine`.
    """
    bank = read_mine(vit, "features", source.bank, preprocess, device, shared)
    return _score(bank, source, extract(vit, queries, preprocess, device, shared), queries, device, ks)


def untouched_score(
    vit: Vit, source: Source, queries: Split, preprocess: Preprocess, device: torch.device
) -> SourceScore:
    """:func:`source_score` of a model that no training changes: bank features and scores are kept on disk.

    They are found again by the images and by all that computes features of them (see
    :mod:`bench.measuring.circumstances`); a file is used only if it is whole, and every rank has it.
    """
    bank_key = cache.digest([*circumstances(vit, device), str(preprocess), source.bank.fingerprint()])
    scores = f"before/{bank_key}/{queries.fingerprint()[:32]}.json"
    kept = _kept_score(scores)
    if parallel.everywhere(kept is not None, device):
        assert kept is not None
        return kept
    bank = _kept_bank(
        f"before/{bank_key}",
        lambda: read_mine(vit, "features", source.bank, preprocess, device),
        len(source.bank),
        device,
    )
    score = _score(bank, source, extract(vit, queries, preprocess, device), queries, device, knn.DEFAULT_KS)
    if parallel.rank() == 0:
        cache.write(scores, KEPT.dump_json(score))
    return score


def _kept_score(name: str) -> SourceScore | None:
    """A score that was kept; None if there is none, or none that can be used."""
    kept = cache.read(name)
    if kept is None:
        return None
    try:
        return KEPT.validate_json(kept)
    except ValidationError:
        cache.damaged(name)
        return None


def _kept_bank(place: str, compute: Callable[[], Tensor], images: int, device: torch.device) -> Tensor:
    """This rank's share of the features of a bank of so many images, from its file if all ranks have theirs."""
    name, mine = f"{place}/bank-{parallel.rank()}-of-{parallel.world()}.float32", len(parallel.mine(images))
    kept = cache.tensor(name, torch.float32, (mine, -1)) if mine else None  # without images there is nothing to map
    if parallel.everywhere(kept is not None, device):
        assert kept is not None
        return kept.to(device)
    bank = compute()
    if mine:
        cache.keep(name, bank.float())
    return bank


def _score(
    bank: Tensor, source: Source, own: Tensor, queries: Split, device: torch.device, ks: Sequence[int]
) -> SourceScore:
    """The score of this rank's share of the bank's features and all queries' ``own``."""
    labels, truth = source.bank.labels.to(device), queries.labels.to(device)
    check_bank(len(source.bank), ks)
    ks = [k for k in ks if k <= len(source.bank)]
    with tensor_cores(device, allowed=False):  # similarities are compared in float32, whatever features are made in
        if parallel.world() == 1:
            return SourceScore.of(knn.knn_hits(bank, labels, own, truth, ks=ks))
        if not parallel.everywhere(knn.finite(bank) and knn.finite(own), device):
            raise ValueError(knn.DIVERGED)
        return SourceScore.of(knn.hits(_nearest_of_all(own, bank, max(ks)), labels, truth, ks=ks))


def check_bank(size: int, ks: Sequence[int] = knn.DEFAULT_KS) -> None:
    """Raise a ValueError if a bank has too few images for the k by which k-NN accuracies are known."""
    least = HEADLINE_K if HEADLINE_K in ks else min(ks)
    if size < least:
        raise ValueError(
            f"the source's bank holds {size} images, and k-NN with k = {least} needs at least {least}: raise "
            f"source.per_class and source.confirm_per_class, or add images"
        )


def _nearest_of_all(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """Keys of every query's nearest images in the bank of all ranks, the same on every rank.

    Args:
        queries: features of all queries ``[m, d]``.
        bank: features of the bank images that :func:`bench.parallel.mine` gives this rank.
    """
    keys = knn.nearest(queries, bank, k, start=parallel.rank(), step=parallel.world())
    for part in keys.split(knn.BLOCK_QUERIES):
        part.copy_(knn.best(parallel.side_by_side(part), k))
    return keys
