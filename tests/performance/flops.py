"""Operations that a step and a feature take: counted by torch on shapes alone, without weights or a device.

An addition and a product count as two. What a kernel computes again in its backward pass is not counted, so that shares
of a matrix rate compare what was needed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench import models
from bench.models.build import META
from bench.spec import Backbone, Trial

IMAGES = 2
"""On so many images it is counted; the operations are proportional to their number."""


def of_step(trial: Trial, *, classes: int) -> int:
    """Operations of a trial's forward and backward pass over one batch; with what is frozen left out of the second."""
    vit = models.outline(trial, classes).train()
    size = models.preprocess(trial.benchmark.backbone).size
    images, labels = (
        torch.empty(IMAGES, 3, size, size, device=META),
        torch.empty(IMAGES, dtype=torch.int64, device=META),
    )
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(vit(images), labels).backward()
    return counter.get_total_flops() * trial.train.batch_size // IMAGES


def of_features(backbone: Backbone, blocks: int | None = None) -> int:
    """Operations of one image's features; ``blocks``: of its first blocks and what comes before them only."""
    with META:
        vit = models.plain(backbone, num_classes=0).eval()
    if blocks is not None:
        vit.blocks = vit.blocks[:blocks]
    size = models.preprocess(backbone).size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vit.forward_features(torch.empty(1, 3, size, size, device=META))
    return counter.get_total_flops()
