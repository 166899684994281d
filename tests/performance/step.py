"""Line ``step``: training images a second of the paper's methods, against the peers and a plain matrix product."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import resources
from tests.performance.children import measured
from tests.performance.table import Line
from tests.performance.works import METHODS, Work, pictures

PEERS = {"lightning": "Lightning + transformers", "timm": "timm loop"}
WORKS = ("digits", "files")


def lines(*, quick: bool, repeats: int, peers: Sequence[str], names: Sequence[str] = WORKS) -> Iterator[Line]:
    """For every work and method: ours against each peer, then against the matrix rate."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [work for work in works(Path(folder), quick=quick) if ("files" if work.images else "digits") in names]
        for work in chosen:
            for method in ["full"] if quick else METHODS:
                yield from _method(work, method, repeats=repeats, peers=peers, goal=None if quick else _goal(work))


def works(folder: Path, *, quick: bool) -> list[Work]:
    """The embedded model; ViT-S/16 on a CPU, ViT-B/16 on a GPU, both on JPEG files."""
    gpu = resources.gpus() > 0
    tiny = Work("tiny", 64, 4 if quick else 150, "fp32", None)
    if quick:
        return [tiny]
    if gpu:
        return [tiny, Work("vit_base_patch16_224.dino", 128, 60, "bf16", pictures(folder, per_class=256))]
    return [tiny, Work("vit_small_patch16_224.dino", 16, 8, "fp32", pictures(folder, per_class=16))]


def _goal(work: Work) -> tuple[Any, float] | None:
    """Of the ratio to the seed's stack."""
    if work.images is None:
        return (">=", 1.3)
    return (">=", 3.0) if resources.gpus() else None


def _method(work: Work, method: str, *, repeats: int, peers: Sequence[str], goal: Any) -> Iterator[Line]:
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ("ours", *peers)}
    for _ in range(repeats):
        for way, found in runs.items():
            found.append(measured("one_step", way=way, work=dataclasses.asdict(work), method=method))
    what = f"{work.model}, {method}, {work.steps} x {work.batch}, {work.precision}"
    own = runs["ours"]
    speed = [run["images_per_second"] for run in own]
    for peer in peers:
        if any(run["trainable"] != own[0]["trainable"] for run in runs[peer]):
            raise RuntimeError(f"{peer} trains {runs[peer][0]['trainable']} parameters, not {own[0]['trainable']}")
        theirs = [run["images_per_second"] for run in runs[peer]]
        aim = goal if peer == "lightning" else None
        yield Line("step", what, "images/s", speed, PEERS[peer], theirs, better="more", goal=aim)
    achieved, possible = ([run[key] / 1e9 for run in own] for key in ("flops_per_second", "matrix_flops_per_second"))
    yield Line("step", what, "GFLOP/s", achieved, "matrix product", possible, ratio_of="cost")
