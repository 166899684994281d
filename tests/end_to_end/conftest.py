"""Real studies, run the way a user runs them: in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """A finished command."""

    code: int
    out: str
    err: str
    seconds: float
    folder: Path

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """Records by trial."""
        found = [json.loads(path.read_text()) for path in sorted(self.folder.glob("records/*.json"))]
        return {record["trial"]: record for record in found}


Launch = Callable[..., Run]


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Run ``launch.py`` on a study; its results go to a folder of their own."""

    def run(study: str, results: Path, *arguments: str, name: str | None = None) -> Run:
        command = [sys.executable, "launch.py", "--study", study, "--results", str(results), *arguments]
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
        folder = results / (name or Path(study).stem) / "tiny"
        return Run(done.returncode, done.stdout, done.stderr, time.monotonic() - start, folder)

    return run


SMALL = ["--trials", "4", "--seeds", "0", "1", "--set", "train.steps=12", "--set", "train.val_every=5"]
SMALL += ["--set", "search.p.choices=[1, 2]"]


@pytest.fixture(scope="session")
def small(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small block-expansion study: 4 search trials, 2 rows x 2 seeds."""
    return launch("block_expansion", tmp_path_factory.mktemp("small"), *SMALL)
