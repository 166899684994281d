"""Self-supervised pre-training of the embedded backbone, from unlabelled drawn shapes, in minutes on one core.

The recipe is SimCLR's (Chen et al. 2020, arXiv 2002.05709): two augmented views of every image must find each other
among all views of the batch (InfoNCE), here with an exponential moving average of the weights as the result. The
labels of the shapes are used for measuring only.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import data, records
from bench.data import Split, shapes
from bench.measuring import knn_accuracy, source_score
from bench.models import CPU, TINY, TINY_ARCHITECTURE, TINY_PREPROCESS, plain
from bench.readings import HEADLINE_K
from bench.vit import Vit

MOST = 1_000_000
"""Optimizer steps; the recipe has 1,600."""


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of the pre-training."""

    steps: int = 1600
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    temperature: float = 0.2
    ema: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST:
            raise ValueError(f"steps = {self.steps} must be from 1 to {MOST:,}")


def pretrain(recipe: Recipe, *, track: Iterable[int] | None = None) -> Vit:
    """Train the tiny vision transformer; returns the averaged weights as a model without a head.

    Args:
        track: the step numbers, wrapped in something that shows progress.
    """
    torch.set_num_threads(1)  # the order of floating-point sums, and so the weights, must not depend on the machine
    torch.manual_seed(recipe.seed)
    images, _ = shapes.split("pretrain")
    pixels = torch.from_numpy(images)
    vit = tiny_vit()
    head = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
    average: Vit = copy.deepcopy(vit)
    parameters = [*vit.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    for step in range(recipe.steps) if track is None else track:
        _set_lr(optimizer, step, recipe)
        batch = TINY_PREPROCESS(pixels[torch.randint(len(pixels), (recipe.batch_size,))])
        features = vit.forward_features(torch.cat([view(batch), view(batch)]))[:, 0]
        loss = info_nce(head(features), temperature=recipe.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _follow(average, vit, min(recipe.ema, (1 + step) / (10 + step)))
    average.eval()
    return average


def tiny_vit() -> Vit:
    """The untrained architecture."""
    return plain(TINY, num_classes=0)


def info_nce(projections: Tensor, *, temperature: float) -> Tensor:
    """Mean loss of telling each of ``2 n`` views' partner (n places away) from all other views; input ``[2 n, d]``."""
    z = F.normalize(projections, dim=1)
    similarities = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    n = len(z) // 2
    return F.cross_entropy(similarities, torch.arange(2 * n).roll(n))


def view(images: Tensor) -> Tensor:
    """A random view of every image: moved, scaled and turned a little, its colours shifted or dropped, with noise.

    It varies what the classes do not depend on (see :mod:`bench.data.shapes`). Shape ``[n, 3, h, w]``, normalised.
    """
    n = len(images)
    scale, angle = torch.empty(n).uniform_(0.75, 1.1), torch.empty(n).uniform_(-0.2, 0.2)
    shift = torch.empty(2, n).uniform_(-0.2, 0.2)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    gain, bias = torch.empty(n, 3, 1, 1).uniform_(0.6, 1.4), torch.empty(n, 3, 1, 1).uniform_(-0.2, 0.2)
    grey = torch.rand(n, 1, 1, 1) < 0.2
    moved = torch.where(grey, moved.mean(1, keepdim=True), moved) * gain + bias
    return moved + 0.05 * torch.randn_like(moved)


def _set_lr(optimizer: torch.optim.Optimizer, step: int, recipe: Recipe) -> None:
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


@torch.no_grad()
def _follow(average: Vit, model: Vit, momentum: float) -> None:
    for mine, its in zip(average.parameters(), model.parameters(), strict=True):
        mine.lerp_(its, 1 - momentum)


def pretrain_tiny(*, out: Path, recipe: Recipe | None = None, track: Iterable[int] | None = None) -> dict[str, Any]:
    """Pre-train, measure, and write ``tiny.safetensors`` (fp16) and ``tiny.json`` into a folder.

    Returns:
        What ``tiny.json`` says: recipe, checksums, k-NN accuracies in percent.

    Raises:
        ValueError: the folder cannot be written to, which is found before anything is trained.
    """
    recipe = recipe or Recipe()
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise ValueError(f"{out} cannot be written to: {error.strerror}") from None
    vit = pretrain(recipe, track=track)
    weights = out / "tiny.safetensors"
    save_file({key: value.half() for key, value in vit.state_dict().items()}, weights)
    vit.load_state_dict({key: value.half().float() for key, value in vit.state_dict().items()})
    facts = {
        "backbone": "tiny",
        "method": "SimCLR (InfoNCE on two views), exponential moving average of the weights",
        "command": "python -m bench pretrain tiny",
        "recipe": asdict(recipe),
        "architecture": TINY_ARCHITECTURE,
        "source": "shapes",
        "knn": dict(_accuracies(vit)),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "shapes_sha256": shapes_checksum(),
        "provenance": records.provenance(),
    }
    records.write_atomically(out / "tiny.json", json.dumps(facts, indent=2) + "\n")
    return facts


def _accuracies(vit: Vit) -> Iterator[tuple[str, float]]:
    """Top-1 at k = 20 of the trained model, and of an untrained one and raw pixels to compare it with."""
    source = data.source("shapes")
    yield "val", source_score(vit, source, source.val, TINY_PREPROCESS, CPU).accuracy
    yield "test", source_score(vit, source, source.test, TINY_PREPROCESS, CPU).accuracy
    torch.manual_seed(0)
    yield "test_untrained", source_score(tiny_vit(), source, source.test, TINY_PREPROCESS, CPU).accuracy
    yield "test_raw_pixels", _raw_pixels(source.bank, source.test)


def _raw_pixels(bank: Split, queries: Split) -> float:
    flat, asked = (TINY_PREPROCESS(part.take(torch.arange(len(part)))).flatten(1) for part in (bank, queries))
    score: Mapping[int, tuple[float, float]] = knn_accuracy(flat, bank.labels, asked, queries.labels)
    return score[HEADLINE_K][0]


def shapes_checksum() -> str:
    """SHA-256 of 42 images and labels of the source: it changes when the generator draws anything else."""
    images, labels = shapes.generate(count=42, seed=0)
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
