"""CONTRIBUTING's worked examples do what it says: files are written where their titles say, commands are run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import FEW, ROOT, begin_with

BLOCK = re.compile(r'^```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.M | re.S)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_examples_work(store: Path, tmp_path: Path) -> None:
    for name in ("bench", "search_spaces", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("launch.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    begin_with(store, tmp_path / "results")
    written, commands = 0, 0
    for block in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text()):
        if block["title"]:
            (tmp_path / block["title"]).write_text(block["text"])
            written += 1
        elif block["kind"] == "sh":
            for command in block["text"].strip().splitlines():
                run(command, tmp_path, FEW if "launch.py" in command else [])
                commands += 1
    assert (written, commands) == (3, 2)
    assert list((tmp_path / "results/norm/tiny-target-inverted_digits/records").glob("*.json"))


def run(command: str, folder: Path, less: Sequence[str]) -> None:
    """Run a command of the document with this interpreter, with a little less to do."""
    program, *arguments = command.split()
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments, *less], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
