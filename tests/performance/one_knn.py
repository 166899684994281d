"""Child: one k-NN evaluation, ours or DINO's way; answers with seconds, peak memory and the accuracies."""

from __future__ import annotations

import ctypes
import gc
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measuring import knn
from tests.performance.children import answer, arguments

CLASSES = 1000
CHUNK = 500
"""Queries that DINO's evaluation takes at once: a hundredth of ImageNet's validation images."""


def features(count: int, width: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Unit features around a thousand centres, and their classes; drawn in parts, so that nothing is held twice."""
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    found = torch.empty(count, width)
    for part, own in zip(found.split(8192), labels.split(8192), strict=True):
        noisy = torch.randn(len(part), width, generator=generator).mul_(3).add_(centres[own])
        part.copy_(F.normalize(noisy, dim=1))
    return found, labels


def straightforward(
    bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor, *, ks: tuple[int, ...]
) -> dict[int, tuple[float, float]]:
    """DINO's loop, plainly: for each k, chunks of queries meet the whole bank, and vote in a dense table."""
    return {k: _one_k(bank.T, bank_labels, queries, query_labels, k) for k in ks}


def _one_k(bank: Tensor, bank_labels: Tensor, queries: Tensor, query_labels: Tensor, k: int) -> tuple[float, float]:
    top1 = top5 = 0
    for part, truth in zip(queries.split(CHUNK), query_labels.split(CHUNK), strict=True):
        similarity, index = (part @ bank).topk(k, dim=1)
        one_hot = torch.zeros(len(part), k, CLASSES, device=bank.device)
        one_hot.scatter_(2, bank_labels[index][:, :, None], 1)
        table = (one_hot * (similarity / knn.TEMPERATURE).exp()[:, :, None]).sum(1)
        right = table.sort(1, True).indices == truth[:, None]
        top1 += int(right[:, 0].sum())
        top5 += int(right[:, :5].sum())
    return 100 * top1 / len(queries), 100 * top5 / len(queries)


def peak(device: torch.device) -> float:
    """Highest memory since :func:`start_of_peak`, in MiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _status("VmHWM")


def _status(name: str) -> float:
    """A figure of this process in MiB; Linux only, like its reset below."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def start_of_peak(device: torch.device) -> float:
    """Forget earlier peaks where that can be done; memory held now, in MiB."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM counts anew, see proc(5)
    return _status("VmRSS")


def main(way: str, bank: int, queries: int, width: int) -> dict[str, Any]:
    """Warm up on a few images, then measure once."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    function = {"ours": knn.knn_accuracy, "straightforward": straightforward}[way]
    data = [part.to(device) for part in (*features(bank, width, seed=1), *features(queries, width, seed=2))]
    function(data[0][:1000], data[1][:1000], data[2][:20], data[3][:20], ks=knn.DEFAULT_KS)
    before, start = start_of_peak(device), time.perf_counter()
    scores = function(*data, ks=knn.DEFAULT_KS)  # ends in numbers, so the device has done its work
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "mib": peak(device) - before, "scores": list(scores.values()), "sets_mib": sets(data)}


def sets(data: list[Tensor]) -> float:
    """What the features and labels themselves take, in MiB."""
    return sum(part.numel() * part.element_size() for part in data) / 2**20


if __name__ == "__main__":
    assert Path("bench").is_dir()
    answer(**main(**arguments()))
