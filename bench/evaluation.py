"""Evaluation: features and probes to scores. Every image is counted exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import backbones, parallel, probes
from bench.backbones import Preprocess
from bench.data import Source, Split

BATCH = 256


@dataclass(frozen=True)
class SourceScore:
    """k-NN retention: ``{k: (top1, top5)}`` in percent, and the headline ``accuracy`` (top-1 at k = 20)."""

    by_k: Mapping[int, tuple[float, float]]

    @property
    def accuracy(self) -> float:
        """Top-1 in percent at the headline k, or at the largest k that a small bank allows."""
        return self.by_k[probes.HEADLINE_K if probes.HEADLINE_K in self.by_k else max(self.by_k)][0]


def map_images(
    function: Callable[[Tensor], Tensor], images: Split, preprocess: Preprocess, device: torch.device
) -> Tensor:
    """Apply a function of normalised image batches to every image.

    Args:
        function: ``[b, 3, h, w]`` to ``[b, ...]``.

    Returns:
        ``[n, ...]`` in the order of the images, the same on every rank.
    """
    return parallel.gather(_map_mine(function, images, preprocess, device), len(images))


def _map_mine(
    function: Callable[[Tensor], Tensor], images: Split, preprocess: Preprocess, device: torch.device
) -> Tensor:
    """This rank's rows of :func:`map_images`, those of the images :func:`bench.parallel.mine`."""
    indices = parallel.mine(len(images))
    rows: Tensor | None = None
    with torch.inference_mode():
        for start, part in zip(range(0, max(1, len(indices)), BATCH), indices.split(BATCH), strict=True):
            found = function(preprocess(images.take(part).to(device)))
            if rows is None:  # filled as they come: joining them at the end would take the memory twice
                rows = found.new_empty(len(indices), *found.shape[1:])
            rows[start : start + len(part)] = found
    assert rows is not None  # the indices of a rank without images are split into one empty part
    return rows


def extract(vit: Any, images: Split, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Features ``[n, d]`` of all images, in evaluation mode; the model's mode is left as it was."""
    return _evaluating(vit, lambda: map_images(lambda x: backbones.features(vit, x), images, preprocess, device))


def target_accuracy(vit: Any, images: Split, preprocess: Preprocess, device: torch.device) -> tuple[float, float]:
    """Top-1 and top-5 of the model's own head, in percent."""
    logits = _evaluating(vit, lambda: map_images(vit, images, preprocess, device))
    if not torch.isfinite(logits).all():
        raise ValueError("the logits hold NaN or infinite values: the model has diverged")
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == images.labels.to(logits.device)[:, None]
    return 100 * ranked[:, 0].double().mean().item(), 100 * ranked.any(1).double().mean().item()


def source_score(
    vit: Any,
    source: Source,
    queries: Split,
    preprocess: Preprocess,
    device: torch.device,
    *,
    ks: Sequence[int] = probes.DEFAULT_KS,
) -> SourceScore:
    """How well the features still tell the source's classes apart: weighted k-NN of the queries in the bank.

    Every rank keeps the bank features that it extracted itself; the queries go to all of them.
    """
    bank = _evaluating(vit, lambda: _map_mine(lambda x: backbones.features(vit, x), source.bank, preprocess, device))
    found = extract(vit, queries, preprocess, device)
    labels, truth = source.bank.labels.to(device), queries.labels.to(device)
    ks = [k for k in ks if k <= len(source.bank)]
    if parallel.world() == 1:
        return SourceScore(probes.knn_accuracy(bank, labels, found, truth, ks=ks))
    if not parallel.everywhere(probes.finite(bank) and probes.finite(found), device):
        raise ValueError(probes.DIVERGED)
    return SourceScore(probes.accuracies(_nearest_of_all(found, bank, max(ks)), labels, truth, ks=ks))


def _nearest_of_all(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """Keys of every query's nearest images in the bank of all ranks, the same on every rank.

    Args:
        queries: features of all queries ``[m, d]``.
        bank: features of the bank images that :func:`bench.parallel.mine` gives this rank.
    """
    keys = probes.nearest(queries, bank, k, start=parallel.rank(), step=parallel.world())
    for part in keys.split(probes.BLOCK_QUERIES):
        part.copy_(probes.best(parallel.side_by_side(part), k))
    return keys


def _evaluating(vit: Any, action: Callable[[], Tensor]) -> Tensor:
    training = vit.training
    vit.eval()
    try:
        return action()
    finally:
        vit.train(training)
