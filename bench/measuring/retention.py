"""Retention: how well features still tell the source's classes apart, by weighted k-NN over all ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench import cache, parallel
from bench.data import Source, Split
from bench.measuring import knn
from bench.measuring.features import evaluating, extract, map_mine
from bench.models import Preprocess, features
from bench.readings import HEADLINE_K, headline_of
from bench.records import write_atomically
from bench.vit import Vit

PACKAGE = Path(__file__).parent.parent
CODE = ("measuring/*.py", "models/*.py", "data/_pictures.py", "parallel.py")
"""These files compute features and scores: a change of them makes kept ones stale."""


@dataclass(frozen=True)
class SourceScore:
    """k-NN retention: ``{k: (top1, top5)}`` in percent, and the headline ``accuracy`` (top-1 at k = 20)."""

    by_k: Mapping[int, tuple[float, float]]

    @property
    def accuracy(self) -> float:
        """Top-1 in percent at the headline k, or at the largest k that a small bank allows."""
        return self.by_k[headline_of(self.by_k)][0]


def source_score(
    vit: Vit,
    source: Source,
    queries: Split,
    preprocess: Preprocess,
    device: torch.device,
    *,
    ks: Sequence[int] = knn.DEFAULT_KS,
) -> SourceScore:
    """How well the features still tell the source's classes apart: weighted k-NN of the queries in the bank.

    Every rank keeps the bank features that it extracted itself; the queries go to all of them.
    """
    return _score(_bank(vit, source, preprocess, device), vit, source, queries, preprocess, device, ks)


def untouched_score(
    vit: Vit, source: Source, queries: Split, preprocess: Preprocess, device: torch.device
) -> SourceScore:
    """:func:`source_score` of a model that no training changes: bank features and scores are kept on disk.

    They are found again by the weights, the images, the probe's code and what computes it; a file is used only if every
    rank has it.
    """
    weights = (part for item in vit.state_dict().items() for part in _bytes(*item))
    bank_key = cache.digest([*_circumstances(device), str(preprocess), source.bank.fingerprint(), *weights])
    place = cache.root() / "before" / bank_key
    scores = place / f"{queries.fingerprint()[:32]}.json"
    if parallel.everywhere(scores.is_file(), device):
        return SourceScore({int(k): (top1, top5) for k, (top1, top5) in json.loads(scores.read_text()).items()})
    bank = _kept_bank(place, lambda: _bank(vit, source, preprocess, device), device)
    score = _score(bank, vit, source, queries, preprocess, device, knn.DEFAULT_KS)
    if parallel.rank() == 0:
        write_atomically(scores, json.dumps(dict(score.by_k)))
    return score


def _bytes(name: str, value: Tensor) -> tuple[str, memoryview]:
    return name, value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _circumstances(device: torch.device) -> Iterator[str | bytes]:
    """What features depend on beside the weights and the images."""
    yield torch.__version__
    yield torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for part in CODE:
        for file in sorted(PACKAGE.glob(part)):
            yield file.read_bytes()


def _kept_bank(place: Path, compute: Callable[[], Tensor], device: torch.device) -> Tensor:
    """This rank's share of a bank's features, from its file if all ranks have theirs."""
    from safetensors.torch import load_file, save_file

    file = place / f"bank-{parallel.rank()}-of-{parallel.world()}.safetensors"
    if parallel.everywhere(file.is_file(), device):
        return load_file(file)["features"].to(device)
    bank = compute()
    place.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    save_file({"features": bank.cpu()}, temporary)
    temporary.replace(file)
    return bank


def _bank(vit: Vit, source: Source, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Features of this rank's share of the bank."""
    return evaluating(vit, lambda: map_mine(lambda x: features(vit, x), source.bank, preprocess, device))


def _score(
    bank: Tensor,
    vit: Vit,
    source: Source,
    queries: Split,
    preprocess: Preprocess,
    device: torch.device,
    ks: Sequence[int],
) -> SourceScore:
    own = extract(vit, queries, preprocess, device)
    labels, truth = source.bank.labels.to(device), queries.labels.to(device)
    check_bank(len(source.bank), ks)
    ks = [k for k in ks if k <= len(source.bank)]
    if parallel.world() == 1:
        return SourceScore(knn.knn_accuracy(bank, labels, own, truth, ks=ks))
    if not parallel.everywhere(knn.finite(bank) and knn.finite(own), device):
        raise ValueError(knn.DIVERGED)
    return SourceScore(knn.accuracies(_nearest_of_all(own, bank, max(ks)), labels, truth, ks=ks))


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
