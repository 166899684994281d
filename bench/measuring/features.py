"""Features and logits of many images. Every image is counted exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import parallel
from bench.data import InFiles, Split, ahead, processes_for
from bench.models import Preprocess, Read, features
from bench.readings import packed, packed_classes
from bench.training import Shared, evaluation_mode
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
    with torch.inference_mode():
        return _joined(_batches(function, images, preprocess, device), len(parallel.mine(len(images))))


def _batches(
    function: Callable[[Tensor], Tensor], images: Split, preprocess: Preprocess, device: torch.device
) -> Iterator[Tensor]:
    """What a function makes of this rank's images, batch by batch."""
    indices = parallel.mine(len(images))
    size = _batch(device)
    processes = processes_for(device) if isinstance(images, InFiles) and not images.kept else 0
    for _, pixels in ahead(indices.split(size), images.take, processes=processes, pin=device.type == "cuda"):
        inputs = pixels.to(device, non_blocking=True)
        results, size = _as_fits(lambda x: function(preprocess(x)), inputs, size)
        yield results


def _batch(device: torch.device) -> int:
    return CUDA_BATCH if device.type == "cuda" else BATCH


def _joined(batches: Iterator[Tensor], count: int) -> Tensor:
    """Batches of ``count`` rows in all, filled in as they come: joining them at the end would take the memory twice."""
    rows, start = None, 0
    for results in batches:
        if rows is None:
            rows = results.new_empty(count, *results.shape[1:])
        rows[start : start + len(results)] = results
        start += len(results)
    assert rows is not None  # the indices of a rank without images are split into one empty part
    return rows


def read_mine(
    vit: Vit, read: Read, images: Split, preprocess: Preprocess, device: torch.device, shared: Shared | None = None
) -> Tensor:
    """Logits or features ``[n, ...]`` of this rank's images, in evaluation mode; the model's mode is left as it was.

    Args:
        shared: what is known of some images after the model's frozen blocks, and computed only once.
    """
    use = shared.use_of(images, read) if shared else None
    with evaluation_mode(as_module(vit)):
        if shared is None or use is None:
            return map_mine(vit if read == "logits" else lambda x: features(vit, x), images, preprocess, device)
        kept = shared.activations(
            use,
            lambda function, rows: (
                _batches(function, images, preprocess, device) if rows is None else _parts(function, rows, device)
            ),
        )
        with torch.inference_mode():
            return _joined(_parts(shared.tail.reading(read), kept, device), len(kept))


def _parts(function: Callable[[Tensor], Tensor], rows: Tensor, device: torch.device) -> Iterator[Tensor]:
    """What a function makes of rows that stand for images, in the same batches as of images."""
    size = _batch(device)
    for part in rows.split(size):
        results, size = _as_fits(function, part.to(device), size)
        yield results


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


def extract(
    vit: Vit, images: Split, preprocess: Preprocess, device: torch.device, shared: Shared | None = None
) -> Tensor:
    """Features ``[n, d]`` of all images, the same on every rank; see :func:`read_mine`."""
    return parallel.gather(read_mine(vit, "features", images, preprocess, device, shared), len(images))


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


def target_score(
    vit: Vit, images: Split, preprocess: Preprocess, device: torch.device, shared: Shared | None = None
) -> TargetScore:
    """Top-1 and top-5 of the model's own head; for ``shared`` see :func:`read_mine`.

    Raises:
        ValueError: a logit is not finite.
    """
    logits = parallel.gather(read_mine(vit, "logits", images, preprocess, device, shared), len(images))
    if not torch.isfinite(logits).all():
        raise ValueError("the logits hold NaN or infinite values: the model has diverged")
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = ranked == images.labels.to(logits.device)[:, None]
    top1, top5 = (100 * right.double().mean().item() for right in (hits[:, 0], hits.any(1)))
    classes, called = (packed_classes(numbers.cpu().numpy()) for numbers in (images.labels, ranked[:, 0]))
    return TargetScore(top1, top5, packed(hits[:, 0].cpu().numpy()), classes, called)
