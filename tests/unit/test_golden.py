"""The default recipe's numbers: the first losses on the benchmark tiny, step by step, as they were when last agreed on.

``python -m tests.unit.test_golden`` remakes the file; a change of it is a line in the changelog, marked **numbers**.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from bench import trial
from bench.launching import benchmarks
from bench.readings import Point
from bench.training import losses as reports
from tests.unit.test_trial import make, small_data

FILE = Path(__file__).parents[1] / "golden" / "tiny_losses.txt"
STEPS = 20
METHODS: Mapping[str, Mapping[str, int]] = {"full": {}, "block_expansion": {"p": 3}}
HEADER = f"""\
# The first {STEPS} losses of the default recipe on the benchmark tiny, seed 0, one thread, one worker.
# Remade by: python -m tests.unit.test_golden (a change is a line in CHANGELOG.md, marked **numbers**)
"""


def losses(method: str) -> list[float]:
    """Loss of every one of the first steps of a trial with the default recipe."""
    found: list[float] = []

    def report(point: Point) -> None:
        found.append(point.values["train_loss"])
        if len(found) == STEPS:
            raise trial.TrialStopped

    steps = benchmarks.get("tiny").train.steps
    with small_data(), pytest.MonkeyPatch.context() as patch:  # the training images are all there
        patch.setattr(reports, "REPORTS", steps)  # a report a step
        record = trial.run(make(method, steps=steps, **METHODS[method]), report)
    assert record.steps == STEPS
    return found


def text() -> str:
    """The content of the golden file."""
    lines = [f"{method} {step:2d} {loss:.9f}" for method in METHODS for step, loss in enumerate(losses(method), 1)]
    return HEADER + "\n".join(lines) + "\n"


@pytest.mark.parametrize("method", METHODS)
def test_the_default_recipe_gives_the_losses_it_gave(method: str) -> None:
    torch.set_num_threads(1)
    lines = [line.split() for line in FILE.read_text().splitlines() if not line.startswith("#")]
    golden = [float(loss) for name, _, loss in lines if name == method]
    assert len(golden) == STEPS
    assert losses(method) == pytest.approx(golden, rel=1e-5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(text())
