"""Features and logits of many images. Every image is counted exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import parallel
from bench.data import InFiles, Split, ahead, processes_for
from bench.models import Preprocess, features
from bench.readings import packed, packed_classes
from bench.training import evaluation_mode
from bench.vit import Vit, as_module

BATCH, CUDA_BATCH = 256, 1024
"""So many images are evaluated at once, elsewhere and on a GPU; fewer where they do not fit into its memory."""


def map_images(
    function: Callable[[Tensor], Tensor], images: Split, preprocess: Preprocess, device: torch.device
) -> Tensor:
    """Apply a function of normalised image batches to every image.

    Args:
        function: ``[b, 3, h, w]`` to ``[b, ...]``.

    Returns:
        ``[n, ...]`` in the order of the images, the same on every rank.
    """
    return parallel.gather(map_mine(function, images, preprocess, device), len(images))


def map_mine(
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
            results, size = _as_fits(lambda x: function(preprocess(x)), inputs, size)
            if rows is None:  # filled as they come: joining them at the end would take the memory twice
                rows = results.new_empty(len(indices), *results.shape[1:])
            rows[start : start + len(part)] = results
            start += len(part)
    assert rows is not None  # the indices of a rank without images are split into one empty part
    return rows


def _as_fits(function: Callable[[Tensor], Tensor], inputs: Tensor, size: int) -> tuple[Tensor, int]:
    """Apply a function to parts of at most ``size`` inputs, halved until memory suffices; returns the size as well."""
    while True:
        try:
            parts = [function(part) for part in inputs.split(size)]
            return parts[0] if len(parts) == 1 else torch.cat(parts), size
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2  # only here, where the exception holds no tensors any more


def extract(vit: Vit, images: Split, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Features ``[n, d]`` of all images, in evaluation mode; the model's mode is left as it was."""
    return evaluating(vit, lambda: map_images(lambda x: features(vit, x), images, preprocess, device))


@dataclass(frozen=True)
class TargetScore:
    """Accuracies of a model's own head in percent, and what it answered (see :class:`bench.readings.Answers`)."""

    top1: float
    top5: float
    right: str
    classes: str
    called: str

    @property
    def answers(self) -> dict[str, str]:
        """What is known of each image."""
        return {"right": self.right, "classes": self.classes, "called": self.called}


def target_score(vit: Vit, images: Split, preprocess: Preprocess, device: torch.device) -> TargetScore:
    """Top-1 and top-5 of the model's own head.

    Raises:
        ValueError: a logit is not finite.
    """
    logits = evaluating(vit, lambda: map_images(vit, images, preprocess, device))
    if not torch.isfinite(logits).all():
        raise ValueError("the logits hold NaN or infinite values: the model has diverged")
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == images.labels.to(logits.device)[:, None]
    top1, top5 = (100 * right.double().mean().item() for right in (hits[:, 0], hits.any(1)))
    classes, called = (packed_classes(numbers.cpu().numpy()) for numbers in (images.labels, ranked[:, 0]))
    return TargetScore(top1, top5, packed(hits[:, 0].cpu().numpy()), classes, called)


def evaluating(vit: Vit, action: Callable[[], Tensor]) -> Tensor:
    """Do something in evaluation mode; the mode of every module is left as it was."""
    with evaluation_mode(as_module(vit)):
        return action()
