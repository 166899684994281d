"""Runs every script of this folder and prints a table: fault, seconds, outcome."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
LINE = re.compile(r"(?P<name>[^:]+): (?P<seconds>[\d.]+) seconds, (?P<outcome>(?:ok|FAIL|skipped).*)")


def main() -> int:
    """Returns the exit code: 0, or 1 if a fault was not survived or a script said nothing."""
    scripts = [path.stem for path in sorted(HERE.glob("*.py")) if path.stem not in ("__init__", "__main__", "harness")]
    chosen = [name for name in scripts if name in sys.argv[1:]] if sys.argv[1:] else scripts
    table, good = Table("fault", "seconds", "outcome"), bool(chosen)
    for name in chosen:
        done = subprocess.run(
            [sys.executable, "-m", f"tests.faults.{name}"], stdout=subprocess.PIPE, text=True, check=False
        )
        print(done.stdout, end="", flush=True)
        lines = [found for line in done.stdout.splitlines() if (found := LINE.fullmatch(line))]
        for found in lines:
            table.add_row(found["name"], found["seconds"], found["outcome"])
        if done.returncode or not lines or any(found["outcome"].startswith("FAIL") for found in lines):
            good = False
            if not any(found["outcome"].startswith("FAIL") for found in lines):
                table.add_row(name, "", f"FAIL (the script ended with exit code {done.returncode})")
    Console(markup=False).print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
