"""Operations of a training step and of an image's features, counted by torch on shapes alone.

An addition and a product count as two. What a kernel computes again in its backward pass is not counted, so that shares
of a matrix rate compare what was needed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench import models
from bench.spec import Backbone, Trial
from bench.vit import Vit

META = torch.device("meta")

IMAGES = 2
"""On so many images it is counted; the operations are proportional to their number."""


@dataclass(frozen=True)
class Counts:
    """Operations an image: ``step``, forwards and backwards; ``image``, forwards alone.

    ``frozen``: so many of the first blocks no training changes, nor what comes before them.
    """

    step: int
    image: int
    frozen: int


def of(trial: Trial, *, classes: int) -> Counts:
    """Those of a trial's model; its backward pass goes as far as something is trained."""
    vit = models.outline(trial, classes).train()
    images, labels = _images(trial.benchmark.backbone), torch.empty(IMAGES, dtype=torch.int64, device=META)
    with FlopCounterMode(display=False) as counter:
        logits = vit(images)
        forwards = counter.get_total_flops()
        F.cross_entropy(logits, labels).backward()
    return Counts(counter.get_total_flops() // IMAGES, forwards // IMAGES, _frozen(vit))


def _frozen(vit: Vit) -> int:
    later = ("blocks.", "norm.", "fc_norm.", "head.")
    if any(p.requires_grad for name, p in vit.named_parameters() if not name.startswith(later)):
        return 0
    trained = [any(p.requires_grad for p in block.parameters()) for block in vit.blocks]
    return trained.index(True) if True in trained else len(trained)


@functools.cache
def of_features(backbone: Backbone, blocks: int | None = None) -> int:
    """Operations of an image's features; ``blocks``: of so many first blocks and what comes before them only."""
    with models.shapes_only():
        vit = models.plain(backbone, num_classes=0).eval()
    vit.blocks = vit.blocks[:blocks]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vit.forward_features(_images(backbone))
    return int(counter.get_total_flops() // IMAGES)


def _images(backbone: Backbone) -> torch.Tensor:
    size = models.preprocess(backbone).size
    return torch.empty(IMAGES, 3, size, size, device=META)
