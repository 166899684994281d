"""A copy of the project with a method that falls ill in one of its ways: what a trial of it does is up to its row."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.harness import ROOT

METHOD = '''
"""A linear probe that falls ill at its second step."""

from __future__ import annotations

import ctypes
import time
from typing import Literal

from pydantic.dataclasses import dataclass

from bench.methods._base import STRICT, Method
from bench.methods._layers import train_only
from bench.vit import heads


@dataclass(frozen=True, config=STRICT)
class Sick(Method):
    """The head alone is trained."""

    way: Literal["well", "sleeps", "sleeps_in_c", "eats"]

    def apply(self, vit):
        return train_only(vit, *heads(vit))

    def loss(self, step):
        if step.number == 2:
            WAYS[self.way]()


def sleeps():
    while True:
        time.sleep(1)


def sleeps_in_c():
    ctypes.PyDLL(None).sleep(1_000_000)  # unlike CDLL's, its functions keep Python's lock


def eats():
    eaten = []
    while len(eaten) < 32:
        eaten.append(b"x" * 2**28)
        time.sleep(0.1)
    sleeps()


WAYS = {"well": lambda: None, "sleeps": sleeps, "sleeps_in_c": sleeps_in_c, "eats": eats}
'''

STUDY = """
method: sick
search:
  lr: {{low: 0.1, high: 1.0, log: true}}
  way: {{choices: {ways}}}
rows: [way]
objective: mean
trials: 4
seeds: [0]
"""


def project(place: Path, ways: list[str]) -> Path:
    """A copy of the project in a new folder, with a study ``sick`` of some ways."""
    for name in ("bench", "search_spaces"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "launch.py", place)
    (place / "bench" / "methods" / "sick.py").write_text(METHOD)
    (place / "search_spaces" / "sick.yaml").write_text(STUDY.format(ways=ways))
    return place
