"""Evaluation: features and probes to scores. Every image is counted exactly once, on any number of ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import backbones, parallel, probes
from bench.augment import InFiles
from bench.backbones import Preprocess
from bench.data import Source, Split
from bench.data import _cache as cache
from bench.loading import ahead, processes_for
from bench.records import write_atomically

BATCH, CUDA_BATCH = 256, 1024
"""Images that are evaluated at once, elsewhere and on a GPU; fewer where they do not fit into its memory."""


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
    size, start = CUDA_BATCH if device.type == "cuda" else BATCH, 0
    processes = processes_for(device) if isinstance(images, InFiles) and not images.kept else 0
    with torch.inference_mode():
        for part, pixels in ahead(indices.split(size), images.take, processes=processes, pin=device.type == "cuda"):
            inputs = pixels.to(device, non_blocking=True)
            found, size = _as_fits(lambda x: function(preprocess(x)), inputs, size)
            if rows is None:  # filled as they come: joining them at the end would take the memory twice
                rows = found.new_empty(len(indices), *found.shape[1:])
            rows[start : start + len(part)] = found
            start += len(part)
    assert rows is not None  # the indices of a rank without images are split into one empty part
    return rows


def _as_fits(function: Callable[[Tensor], Tensor], inputs: Tensor, size: int) -> tuple[Tensor, int]:
    """Apply a function to parts of at most ``size`` inputs, halved until memory suffices; returns the size as well."""
    while True:
        try:
            found = [function(part) for part in inputs.split(size)]
            return found[0] if len(found) == 1 else torch.cat(found), size
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2  # only here, where the exception holds no tensors any more


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
    return _score(_bank(vit, source, preprocess, device), vit, source, queries, preprocess, device, ks)


def untouched_score(
    vit: Any, source: Source, queries: Split, preprocess: Preprocess, device: torch.device
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
    found = _score(bank, vit, source, queries, preprocess, device, probes.DEFAULT_KS)
    if parallel.rank() == 0:
        write_atomically(scores, json.dumps(dict(found.by_k)))
    return found


def _bytes(name: str, value: Tensor) -> tuple[str, memoryview]:
    return name, value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _circumstances(device: torch.device) -> Iterator[str | bytes]:
    """What features depend on beside the weights and the images."""
    yield torch.__version__
    yield torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    for module in (probes, backbones, parallel):
        assert module.__file__ is not None
        yield Path(module.__file__).read_bytes()
    yield Path(__file__).read_bytes()


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


def _bank(vit: Any, source: Source, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Features of this rank's share of the bank."""
    return _evaluating(vit, lambda: _map_mine(lambda x: backbones.features(vit, x), source.bank, preprocess, device))


def _score(
    bank: Tensor,
    vit: Any,
    source: Source,
    queries: Split,
    preprocess: Preprocess,
    device: torch.device,
    ks: Sequence[int],
) -> SourceScore:
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
