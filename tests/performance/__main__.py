"""``make perf``: measure, print one table, write it with the hardware to ``results/perf/``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import records, resources
from tests.performance import growth, harness, knn, scale, scaling, step
from tests.performance.table import HEADER, Line, Report, cells

NAMES = ("harness", "step", "knn", "scaling", "growth", "scale")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make perf", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="LINE", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="shrink everything: shows that it runs, not how fast")
    parser.add_argument("--repeats", type=int, help="measurements of each figure (default: 3, with --quick 1)")
    parser.add_argument(
        "--peers", nargs="*", choices=step.PEERS, default=list(step.PEERS), help="whom step runs against"
    )
    parser.add_argument(
        "--works",
        nargs="+",
        choices=step.WORKS,
        default=list(step.WORKS),
        help="what step trains on: digits or JPEG files",
    )
    parser.add_argument("--out", type=Path, default=Path("results/perf"), help="folder (default: results/perf)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 measured (whether goals are met is for the reader), 2 bad input."""
    parser = arguments()
    args = parser.parse_args(argv)
    repeats = args.repeats or (1 if args.quick else 3)
    if repeats < 1:
        parser.error(f"--repeats must be at least 1, not {repeats}")
    if "step" in args.only and "lightning" in args.peers and importlib.util.find_spec("lightning") is None:
        parser.error("lightning is not installed: run `make perf`, or leave it out with --peers timm")
    if args.quick and "step" in args.only and "digits" not in args.works:
        parser.error("--quick trains on digits only: add them to --works")
    quick: bool = args.quick
    parts: dict[str, Callable[[], Iterator[Line]]] = {
        "harness": lambda: harness.lines(quick=quick, repeats=repeats),
        "step": lambda: step.lines(quick=quick, repeats=repeats, peers=args.peers, names=args.works),
        "knn": lambda: knn.lines(quick=quick, repeats=repeats),
        "scaling": lambda: scaling.lines(quick=quick, repeats=repeats),
        "growth": lambda: growth.lines(quick=quick, repeats=repeats),
        "scale": lambda: scale.lines(quick=quick, repeats=repeats),
    }
    began = time.perf_counter()
    found = [line for name in parts if name in args.only for line in _told(parts[name]())]
    settings = {"quick": quick, "repeats": repeats}
    report = Report(found, settings, time.perf_counter() - began, records.provenance(devices=devices()))
    print("\n" + report.markdown())
    print("written to " + " and ".join(map(str, report.write(args.out))))
    return 0


def devices() -> list[str]:
    """Names of the GPUs."""
    if not resources.gpus():
        return []
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _told(lines: Iterator[Line]) -> Iterator[Line]:
    """Lines that are shown as soon as they are there."""
    for line in lines:
        print("; ".join(f"{head} {cell}" for head, cell in zip(HEADER, cells(line), strict=True) if cell), flush=True)
        yield line


if __name__ == "__main__":
    sys.exit(main())
