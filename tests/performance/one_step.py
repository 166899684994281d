"""Child: training throughput of one way to train one method on one work; answers with images a second."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench import methods, models, trial
from tests.performance import flops
from tests.performance.children import answer, arguments
from tests.performance.works import CLASSES, METHODS, Work

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARM = 0.1
"""Share of the steps that come before the clock starts, ours and a peer's: loader processes start in that time."""


def ours(work: Work, method: str) -> dict[str, Any]:
    """A trial in a warm process, as in a slot that has done one before."""
    clock = Clock(work)
    trial.run(work.trial(method, steps=2), device=DEVICE)
    record = trial.run(work.trial(method), device=DEVICE, report=lambda point: clock.at(point.step))
    if record.status != "ok":
        raise RuntimeError(record.error)
    operations = flops.of(work.trial(method), classes=CLASSES).step
    return {
        "images_per_second": clock.images_per_second,
        "trainable": record.trainable_parameters,
        "flops_per_second": operations * clock.images_per_second,
        "matrix_flops_per_second": matrix_rate(work.precision),
    }


def matrix_rate(precision: str, *, repeats: int = 10) -> float:
    """Operations a second of a large matrix product in the work's precision: the best of some."""
    side = 8192 if DEVICE.type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix, seconds = torch.randn(side, side, device=DEVICE, dtype=dtype), []
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        matrix @ matrix
        synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def timm_loop(work: Work, method: str) -> dict[str, Any]:
    """timm's model, transforms and loader in a plain loop."""
    from timm.data.loader import create_loader

    from tests.performance.peers import Pictures, prepared

    preprocess = models.preprocess(work.benchmark.backbone)
    plain = models.create(work.benchmark.backbone, num_classes=CLASSES)
    vit: Any = methods.load(method, **METHODS[method]).apply(plain).to(DEVICE)
    pictures: Any = Pictures(prepared(work))
    loader = create_loader(
        pictures,
        input_size=(3, preprocess.size, preprocess.size),
        batch_size=work.batch,
        is_training=True,
        color_jitter=0.0,
        interpolation="bilinear",
        mean=preprocess.mean,
        std=preprocess.std,
        num_workers=os.cpu_count() or 1,
        device=DEVICE,
        use_prefetcher=DEVICE.type == "cuda",
        pin_memory=DEVICE.type == "cuda",
    )
    optimizer = torch.optim.SGD([p for p in vit.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    clock = Clock(work)
    vit.train()
    while not clock.done:
        for images, labels in loader:
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=work.precision == "bf16"):
                loss = F.cross_entropy(vit(images.to(DEVICE)), labels.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if clock.tick():
                break
    return {"images_per_second": clock.images_per_second, "trainable": trainable(vit)}


def lightning(work: Work, method: str) -> dict[str, Any]:
    """Lightning's trainer, transformers' ViT, torchvision's transforms image by image in loader processes."""
    from tests.performance import peers

    clock = Clock(work)
    model = peers.transformers_vit(work, method)
    peers.fit(model, work, tick=clock.tick)
    return {"images_per_second": clock.images_per_second, "trainable": trainable(model)}


def trainable(model: nn.Module) -> int:
    """Numbers that the optimizer changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


class Clock:
    """Times steps: from the first reading after a tenth of them, to the last step."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._warm = max(1, int(WARM * work.steps))
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)

    def tick(self) -> bool:
        """One more step has been done; returns whether it was the last."""
        self.at(self._last[0] + 1)
        return self.done

    def at(self, step: int) -> None:
        """So many steps have been done."""
        starts = self._first is None and step >= self._warm
        if starts or step == self._work.steps:
            synchronize()
        self._last = (step, time.perf_counter())
        if starts:
            self._first = self._last

    @property
    def done(self) -> bool:
        return self._last[0] >= self._work.steps

    @property
    def images_per_second(self) -> float:
        assert self.done and self._first is not None
        (first, start), (last, end) = self._first, self._last
        return self._work.batch * (last - first) / (end - start)


WAYS = {"ours": ours, "lightning": lightning, "timm": timm_loop}


def main(way: str, work: dict[str, Any], method: str) -> dict[str, Any]:
    """Measure once; ``work`` holds the fields of a :class:`Work`."""
    torch.manual_seed(0)
    return WAYS[way](Work(**work), method)


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    answer(**main(**arguments()))
