"""Runs every script of this folder and prints a table: fault, seconds, outcome."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
WAITING = ("hang", "mlflow_locked", "mlflow_server")
"""These do hardly anything but wait, and run beside the others."""

LINE = re.compile(r"(?P<name>.+): (?P<seconds>[\d.]+) seconds, (?P<outcome>(?:ok|FAIL|skipped).*)")


def run(name: str) -> tuple[list[tuple[str, str, str]], bool]:
    """The rows of a script, fault by fault, and whether all went well."""
    began = time.monotonic()
    command = [sys.executable, "-m", f"tests.faults.{name}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="", flush=True)
    said = [found for line in done.stdout.splitlines() if (found := LINE.fullmatch(line))]
    rows = [(found["name"], found["seconds"], found["outcome"]) for found in said]
    failed = any(outcome.startswith("FAIL") for _, _, outcome in rows)
    if not rows or (done.returncode and not failed):
        outcome = f"FAIL (exit code {done.returncode})" if done.returncode else "ok"
        rows.append((name, f"{time.monotonic() - began:.1f}", outcome))
    return rows, not failed and not done.returncode


def run_all(names: Sequence[str]) -> list[tuple[list[tuple[str, str, str]], bool]]:
    """What became of each script: the others one after the other, and beside them those that only wait."""
    lanes = {waits: [name for name in names if (name in WAITING) == waits] for waits in (False, True)}
    with ThreadPoolExecutor(len(lanes)) as threads:
        ran = dict(zip(lanes, threads.map(lambda lane: [run(name) for name in lane], lanes.values()), strict=True))
    done = {waits: iter(results) for waits, results in ran.items()}
    return [next(done[name in WAITING]) for name in names]


def main() -> int:
    """Returns the exit code: 0; 1 if a fault was not survived or a script failed; 2 if there is no such script."""
    scripts = [path.stem for path in sorted(HERE.glob("[!_]*.py")) if path.stem != "harness"]
    if unknown := set(sys.argv[1:]) - set(scripts):
        print(f"error: there is no {', '.join(sorted(unknown))}; there are {', '.join(scripts)}", file=sys.stderr)
        return 2
    chosen = sys.argv[1:] or scripts
    table, good = Table("fault", "seconds", "outcome"), True
    began = time.monotonic()
    for rows, went_well in run_all(chosen):
        good = good and went_well
        for row in rows:
            table.add_row(*row)
    Console(markup=False).print(table)
    print(f"{len(chosen)} scripts took {(time.monotonic() - began) / 60:.1f} minutes")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
