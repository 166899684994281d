"""Measurements in processes of their own: neither side finds the other's caches, threads or memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "MEASURED "


def measured(module: str, **arguments: Any) -> dict[str, Any]:
    """Run ``tests.performance.<module>`` with arguments as JSON; what it hands to :func:`answer`.

    Raises:
        RuntimeError: it ended without an answer; its last words are in the message.
    """
    command = [sys.executable, "-m", f"tests.performance.{module}", json.dumps(arguments)]
    with tempfile.TemporaryDirectory() as data:
        own = environment(data)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=own)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return found
    raise RuntimeError(f"{module} {arguments} ended with {done.returncode} and no answer:\n{done.stderr[-3000:]}")


def environment(data: str) -> dict[str, str]:
    """Ours, with workers of Ray started as everywhere in this project.

    Args:
        data: an empty folder, so that no side finds on disk what another has measured.
    """
    return {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PYTHONPATH": str(ROOT), "BENCH_DATA": data}


def arguments() -> dict[str, Any]:
    """In the child: what :func:`measured` was given."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def answer(**values: Any) -> None:
    """In the child: what :func:`measured` returns."""
    print(MARK + json.dumps(values), flush=True)


if __name__ == "__main__":
    answer(**arguments())
