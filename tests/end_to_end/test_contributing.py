"""CONTRIBUTING's worked examples do what it says: files are written where their titles say, commands are run."""

from __future__ import annotations

import json
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
    written, commands = 0, list[list[str]]()
    for block in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text()):
        if block["title"]:
            (tmp_path / block["title"]).write_text(block["text"])
            written += 1
        elif block["kind"] == "sh":
            commands += [line.split() for line in block["text"].strip().splitlines()]
    assert written == 3
    assert [command[:3] for command in commands] == [["python", "-m", "pytest"], ["python", "launch.py", "--study"]]
    asked = json.dumps([[*command[1:], *FEW * (command[1] == "launch.py")] for command in commands])
    done = subprocess.run([sys.executable, "-c", RUN, asked], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}"


RUN = """
import json
import sys

import launch
from bench import trial
from bench.launching import preflight
from bench.launching.request import Request
from bench.spec import make_trial


def trained(*arguments):
    assert launch.main([*arguments, "--dry-run"]) == 0
    command = launch.arguments().parse_strictly(arguments)
    planned = preflight.prepare(Request.parsed(command))
    (study,) = planned.suite.studies
    values = {name: space.corners[0] for name, space in study.search.items()}
    asked = make_trial(study, planned.benchmark, values, launch="launch", label="first", seed=0, phase="search")
    record = trial.run(asked, lambda point: None)
    assert (record.status, record.method, asked.benchmark.target.name) == ("ok", "norm", "inverted_digits"), record


def tested(*arguments):
    import pytest

    assert pytest.main(list(arguments)) == 0


for first, *rest in json.loads(sys.argv[1]):
    if first == "launch.py":
        trained(*rest)
    else:
        tested(*rest[1:])
"""
"""The commands, by this interpreter and in one process; of a launch the plan and the first trial: what Ray does with it
is the same for every method and every data set."""
