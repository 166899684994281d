"""``make gpu``: checks and measurements on one NVIDIA GPU, in under five minutes, as a table and as JSON."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tests.gpu import parts, report, scale
from tests.gpu.parts import Method, Part
from tests.gpu.report import Report, Result

STUDY = ("ray", "optuna", "mlflow", "sklearn", "pandas", "scipy", "matplotlib", "psutil", "rich")

PARTS = (
    Part("device", "tests.gpu.machine:device", 60, needs=("torch",)),
    Part("rates", "tests.gpu.machine:rates", 30, needs=("torch",)),
    Part("methods", "tests.gpu.correctness:methods_agree", 60),
    Part("precisions", "tests.gpu.correctness:precisions", 30),
    Part("features", "tests.gpu.correctness:features_agree", 20),
    Part("k-NN", "tests.gpu.correctness:neighbours_agree", 20),
    Part("evaluate", "tests.gpu.correctness:evaluation_agrees", 20),
    Part("shards", "tests.gpu.correctness:shards", 20),
    Part("clock", "tests.gpu.correctness:clocks_wait", 20),
    Part("speed", "tests.gpu.speed:memory", 60),
    Part("k-NN speed", "tests.gpu.speed:neighbours", 40),
    Part("profile", "tests.gpu.speed:profiled", 20),
    Part("files", "tests.gpu.speed:files", 75),
    Part("choices", "tests.gpu.choices:measured", 40),
    Part("peers", "tests.gpu.speed:peers", 60),
    Part("compile", "tests.gpu.speed:compiled", 90),
    Part("study", "tests.gpu.correctness:study", 90, extra=STUDY),
)
"""In this order: what is right comes before how fast it is, and what takes long comes last. The first is always run."""

NAMES = [part.name for part in PARTS[1:]]

PRELOADED = ("torch", "torchvision", "timm", "peft", "bench.checkpoints", "bench.launching.studies")
"""These are imported once, for all parts whose processes are forked; none of them asks for the device."""


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("--cpu", action="store_true", help="everything small and on the CPU: shows that it runs")
    parser.add_argument("--least", action="store_true", help="with --cpu, as small as the tests have it")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="PART", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--skip", nargs="+", choices=NAMES, default=[], metavar="PART", help="none of these")
    parser.add_argument("--seconds", type=float, default=285.0, help="for all parts together (default: 285)")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder (default: results/gpu)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 all is well, 1 a part failed, was cut or found something wrong, 2 nothing was done."""
    parser = arguments()
    args = parser.parse_args(argv)
    if args.least and not args.cpu:
        parser.error("--least is for --cpu: a GPU is measured at the size of real work")
    if not args.seconds > 0:
        parser.error(f"--seconds must be above 0, not {args.seconds:g}")
    size = scale.LEAST if args.least else scale.CPU if args.cpu else scale.GPU
    chosen = [name for name in args.only or NAMES if name not in args.skip]
    wanted = [PARTS[0], *(part for part in PARTS[1:] if part.name in chosen)]
    if lacking := parts.missing(["torch"]):
        parser.error(f"{lacking[0]} is not here: install it for {sys.executable}, or name another Python (PYTHON=...)")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        _environment(folder, cpu=args.cpu)
        made = Report(
            args.out / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json",
            {"scale": dataclasses.asdict(size) | {"folder": ""}, "seconds": args.seconds},
            {},
            [Result(part.name) for part in wanted],
        )
        try:
            made.write()
        except OSError as error:
            parser.error(f"--out {args.out} cannot be written to: {error.strerror}")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a part is not left behind
        size, until = dataclasses.replace(size, folder=folder), time.perf_counter() + args.seconds
        try:
            return _run(wanted, size, made, until=until)
        except KeyboardInterrupt:
            print(f"interrupted; what was measured is in {made.path}", file=sys.stderr)
            return 128 + signal.SIGINT


def _environment(folder: str, *, cpu: bool) -> None:
    """Set what torch and bench read when they are imported, here and in every part."""
    os.environ["BENCH_DATA"] = str(Path(folder, "data"))
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asking for a device must not open it before a fork
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _run(wanted: Sequence[Part], size: scale.Scale, made: Report, *, until: float) -> int:
    _preload()
    session = _Session(size, made, until)
    for index, part in enumerate(wanted):
        result = session.run(index, part)
        if result.status == "failed" and part.name == "device" and size.cuda:
            session.method = "spawn"  # something that was imported has opened the device, which no fork survives
            result = session.run(index, part)
        if result.status != "done":
            print(f"{part.name}: {result.status}: {result.reason}", flush=True)
        if part.name == "device":
            if result.status != "done":
                print(f"Nothing was measured; {session.log} holds the whole message.", file=sys.stderr)
                return 2
            made.machine.update(result.lines[0].facts)
        made.write()
    print("\n" + made.markdown())
    print(f"written to {made.path} and {made.path.with_suffix('.md')}; what the parts printed is in {session.log}")
    return 0 if made.good else 1


class _Session:
    """Runs parts, and writes the report after every line of theirs."""

    def __init__(self, size: scale.Scale, made: Report, until: float) -> None:
        self.method: Method = "fork"
        self.log = made.path.with_suffix(".log")
        self._size, self._made, self._until = size, made, until

    def run(self, index: int, part: Part) -> Result:
        """Run one part, for as long as it may take and time is left."""

        def tell(result: Result) -> None:
            print(report.text(result.name, result.lines[-1]), flush=True)
            self._made.parts[index] = result
            self._made.write()

        left = min(part.seconds, self._until - time.perf_counter())
        result = parts.run(part, self._size, seconds=left, method=self.method, log=self.log, tell=tell)
        self._made.parts[index] = result
        self._made.write()
        return result


def _preload() -> None:
    for name in PRELOADED:
        with suppress(Exception):  # the parts that need it will say why it cannot be had
            __import__(name)


if __name__ == "__main__":
    sys.exit(main())
