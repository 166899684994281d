"""Where the start of a launch goes: ``python -m tests.performance.start``.

Prints when each process of a launch began, how much CPU time it took until the first trial trained, and when it took
it: a column is half a second, and its height what share of a core the processes of that name had. Beside it the memory
of each when all together had most of it, of what is shared their share.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.performance.children import ROOT, environment
from tests.performance.launches import began_to_train

COLUMN = 0.5
"""Seconds."""

LOOK_SECONDS, MEMORY_SECONDS = 0.2, 2.0
"""Between two looks at CPU times, and at memory; they take time themselves."""

LEVELS = " ▁▂▃▄▅▆▇█"


@dataclass
class Process:
    """What was seen of a process; seconds since the command."""

    name: str
    began: float
    seen: list[tuple[float, float]] = field(default_factory=list)
    """Moments, and the CPU time that it had taken by then."""
    memory: dict[int, float] = field(default_factory=dict)
    """MiB by round of looks at all processes."""

    def cpu(self, until: float) -> float:
        """CPU seconds that it had taken by a moment."""
        return max((taken for moment, taken in self.seen if moment <= until), default=0.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Start a study of two short trials, watch its processes, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance.start", allow_abbrev=False)
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="trials at once")
    args = parser.parse_args(argv)
    short = ["--trials", str(args.slots), "--seeds", "0", "--set", "train.steps=6"]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        command = [sys.executable, "launch.py", "--study", "full", "--results", str(results), "--slots"]
        own = environment(str(Path(folder, "data")))
        began = time.time()
        with subprocess.Popen([*command, str(args.slots), *short], cwd=ROOT, env=own, stdout=subprocess.DEVNULL) as run:
            found = _watched(run, began)
        if run.returncode:
            return run.returncode
        files = list(results.glob("*/*/records/*.json"))
        first = min(began_to_train(file.stat().st_mtime, json.loads(file.read_text())) for file in files) - began
    print(table(found, first))
    return 0


def _watched(run: subprocess.Popen[bytes], began: float) -> list[Process]:
    """The processes of a launch, until it ends."""
    found: dict[tuple[int, float], Process] = {}
    driver, looks, looked = psutil.Process(run.pid), 0, began
    while run.poll() is None:
        look = time.time() - looked >= MEMORY_SECONDS
        if look:
            looks, looked = looks + 1, time.time()
        try:
            family = [driver, *driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for one in family:
            try:
                with one.oneshot():
                    name = "driver" if one == driver else _name(one.cmdline(), one.name())
                    process = found.setdefault((one.pid, one.create_time()), Process(name, one.create_time() - began))
                    times = one.cpu_times()
                if look:
                    held = one.memory_full_info()
                    process.memory[looks] = getattr(held, "pss", held.uss) / 2**20  # only Linux knows the share
            except psutil.Error:  # it has gone
                continue
            process.name = name  # a worker of Ray is called what it does
            process.seen.append((time.time() - began, times.user + times.system))
        time.sleep(LOOK_SECONDS)
    return list(found.values())


def _name(command: Sequence[str], otherwise: str) -> str:
    words = " ".join(command)
    if words.startswith("ray::"):
        return words.split(".")[0].split(" ")[0]
    stems = [Path(word).stem for word in command if word.endswith(".py")]
    return stems[0] if stems else otherwise


def table(processes: Sequence[Process], first: float) -> str:
    """A line for the processes of each name, in the order of their beginnings, as text for a code block.

    Args:
        first: when the first trial trained, in seconds.
    """
    groups: dict[str, list[Process]] = defaultdict(list)
    for process in sorted(processes, key=lambda one: one.began):
        if process.seen:  # some end at once
            groups[_whole(process.name, processes)].append(process)
    width, peak = max(map(len, groups), default=0), _peak(processes)
    lines = [f"{'':{width}}     began   CPU s   MiB  a column is {COLUMN:g} s, its height 0 to 1 cores"]
    for name, own in groups.items():
        bars = "".join(LEVELS[_level(share)] for share in _shares(own, first)).rstrip()
        lines.append(
            f"{name:{width}} {len(own):2} {max(0.0, own[0].began):6.1f} {_sums(own, first, peak)}  {bars}".rstrip()
        )
    lines.append(f"{'together':{width}} {first:9.1f} {_sums(processes, first, peak)}  until the first trial trains")
    return "\n".join(lines)


def _whole(name: str, processes: Sequence[Process]) -> str:
    """The longest name that a name is the beginning of: a process whose command line was short has a short one."""
    return max((one.name for one in processes if one.name.startswith(name)), key=len)


def _peak(processes: Sequence[Process]) -> int:
    """The look at which all together had most memory."""
    together: Counter[int] = Counter()
    for process in processes:
        together.update(process.memory)
    return max(together, key=lambda look: together[look], default=0)


def _sums(processes: Sequence[Process], first: float, peak: int) -> str:
    taken = sum(one.cpu(first) for one in processes)
    return f"{taken:7.1f} {sum(one.memory.get(peak, 0.0) for one in processes):5.0f}"


def _shares(processes: Sequence[Process], first: float) -> list[float]:
    """Of a core, in every column."""
    edges = [COLUMN * number for number in range(int(first / COLUMN) + 2)]
    taken: Mapping[float, float] = {edge: sum(one.cpu(min(edge, first)) for one in processes) for edge in edges}
    return [(taken[high] - taken[low]) / COLUMN for low, high in itertools.pairwise(edges)]


def _level(share: float) -> int:
    return min(len(LEVELS) - 1, max(0, round(share * (len(LEVELS) - 1))))


if __name__ == "__main__":
    raise SystemExit(main())
