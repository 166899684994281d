"""Real launches of ``launch.py``, and what their records say about where the time went."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.performance.children import ROOT, environment


@dataclass(frozen=True)
class Launch:
    """A finished launch. Times are in seconds."""

    seconds: float
    """From the command to its end."""
    start: float
    """From the command to the moment the first trial began to train."""
    span: float
    """From there to the last record."""
    busy: float
    """Training and evaluating, summed over all trials."""
    records: Sequence[dict[str, Any]]

    @property
    def own_cost_per_trial(self) -> float:
        """What a trial took beside training and evaluating, where one trial runs at a time.

        Of the first trial the span holds that part alone: what came before it belongs to the start.
        """
        return (self.span - self.busy) / (len(self.records) - 1)

    @property
    def trials_per_minute(self) -> float:
        """Once the first had begun."""
        return 60 * len(self.records) / self.span

    @property
    def images_per_second(self) -> float:
        """Training throughput over all trials."""
        images = sum(record["images_per_second"] * record["train_seconds"] for record in self.records)
        return float(images / sum(record["train_seconds"] for record in self.records))

    @property
    def trials(self) -> list[dict[str, Any]]:
        """What was trained, in the order in which it ended."""
        return [record["config"] for record in self.records]


def busy_seconds(record: Mapping[str, Any]) -> float:
    """How long a trial trained and was measured."""
    return float(record["train_seconds"]) + float(record["eval_seconds"])


def began_to_train(end: float, record: Mapping[str, Any]) -> float:
    """When a trial began to train, whose record was written at a moment: at its end."""
    return end - busy_seconds(record)


def launch(study: str, *arguments: str) -> Launch:
    """Run a study into a folder of its own.

    Raises:
        RuntimeError: it failed, or one of its trials did.
    """
    with tempfile.TemporaryDirectory() as folder:
        results, own = Path(folder, "results"), environment(str(Path(folder, "data")))
        command = [sys.executable, "launch.py", "--study", study, "--results", str(results), *arguments]
        began, clock = time.time(), time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=own)
        seconds = time.perf_counter() - clock
        # A record is written at the moment its trial ends.
        files = sorted(results.glob("*/*/records/*.json"), key=lambda path: path.stat().st_mtime)
        ends = [path.stat().st_mtime for path in files]
        records = [json.loads(path.read_text()) for path in files]
    if done.returncode or not records or any(record["status"] != "ok" for record in records):
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
        )
    busy = [busy_seconds(record) for record in records]
    first = min(map(began_to_train, ends, records))
    return Launch(seconds, first - began, ends[-1] - first, sum(busy), records)
