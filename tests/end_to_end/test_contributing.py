"""CONTRIBUTING's worked examples do what it says: files are written where their titles say, commands are run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import FEW, ROOT

BLOCK = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.M | re.S)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_examples_work(tmp_path: Path) -> None:
    for name in ("bench", "search_spaces", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("launch.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    written, commands = 0, 0
    for block in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text()):
        if block["title"]:
            (tmp_path / block["title"]).write_text(block["text"])
            written += 1
        elif block["kind"] == "sh":
            for command in block["text"].strip().splitlines():
                run(command, tmp_path)
                commands += 1
    assert (written, commands) == (3, 2)


TRAINED = """
import sys
import launch
from bench import trial
from bench.launching import preflight
from bench.launching.request import Request
from bench.spec import make_trial

assert launch.main([*sys.argv[1:], "--dry-run"]) == 0
command = launch.arguments().parse_strictly(sys.argv[1:])
planned = preflight.prepare(Request.parsed(command))
(study,) = planned.suite.studies
values = {name: space.corners[0] for name, space in study.search.items()}
asked = make_trial(study, planned.benchmark, values, launch="launch", label="first", seed=0, phase="search")
record = trial.run(asked, lambda point: None)
assert (record.status, record.method, asked.benchmark.target.name) == ("ok", "norm", "inverted_digits"), record
"""
"""The plan of a launch and its first trial; what Ray does with it is the same for every method and every data set."""


def run(command: str, folder: Path) -> None:
    """Run a command of the document with this interpreter; of a launch the plan and the first trial."""
    program, *arguments = command.split()
    assert program == "python"
    if arguments[0] == "launch.py":
        arguments = ["-c", TRAINED, *arguments[1:], *FEW]
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
