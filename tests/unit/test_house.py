"""The house itself: licence, pins, targets of make, and the entries that everyone relies on."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PINS = [line for line in CONSTRAINTS.splitlines() if line and not line.startswith("#")]
NOT_OURS = {".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", "__pycache__", "data", "results"}


def canonical(requirement: str) -> str:
    """`Ray[train,tune]>=2.59` -> `ray`, spelt as indexes spell it."""
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    project = PYPROJECT["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    return [*project["dependencies"], *extras]


def our_files() -> Iterator[Path]:
    """Every file of the working tree that is, or could be, in git."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        for folder, folders, files in os.walk(ROOT):
            folders[:] = [one for one in folders if one not in NOT_OURS]
            yield from (Path(folder, file) for file in files)
    else:
        yield from (ROOT / name for name in listed.split("\0") if name)


def make(*arguments: str) -> str:
    # Without the variables by which a `make test` around us would change what this one prints.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_constraints_pin_exactly_and_name_no_place() -> None:
    assert PINS
    assert [pin for pin in PINS if not re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+(\+[a-z0-9.]+)?", pin)] == []
    assert "://" not in CONSTRAINTS
    assert " @ " not in CONSTRAINTS
    assert "make lock" in CONSTRAINTS


def test_constraints_cover_every_requirement() -> None:
    pinned = {canonical(pin) for pin in PINS}
    assert len(pinned) == len(PINS)
    assert {canonical(requirement) for requirement in requirements()} - pinned == set()


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^  ([a-z-]+) +\S", make(), flags=re.MULTILINE)
    assert {"setup", "study", "test", "faults", "check", "format", "mlflow", "perf", "lock", "clean"} <= set(listed)
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert phony is not None
    assert set(listed) == set(phony[1].split())


def test_make_study_passes_study_and_arguments_on() -> None:
    # `-o`: the installation is taken as done, as it is in every environment that runs this test.
    planned = make("--dry-run", "-o", ".venv/.installed", "study", "STUDY=lora", "ARGS=--trials 4")
    assert planned.strip() == ".venv/bin/python launch.py --study lora --trials 4"


def test_make_perf_installs_the_peers_and_passes_arguments_on() -> None:
    planned = make("--dry-run", "-o", ".venv/.installed-dev,perf", "perf", "ARGS=--only knn --quick").splitlines()
    assert planned[-1] == ".venv/bin/python -m tests.performance --only knn --quick"
    assert any("setup EXTRAS=dev,perf" in line for line in planned)


def test_no_file_names_a_package_registry() -> None:
    # Put together here, so that this file does not name one itself.
    hosts = [("pypi", "org"), ("pythonhosted", "org"), ("download.pytorch", "org"), ("anaconda", "org")]
    pattern = re.compile("|".join(re.escape(".".join(host)) for host in hosts).encode())
    found = [path for path in our_files() if path.is_file() and pattern.search(path.read_bytes())]
    assert found == []


def test_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert re.search(r"Apache License\s+Version 2\.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert PYPROJECT["project"]["license"] == "Apache-2.0"


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert text.index("make check") < text.index("make test")


@pytest.mark.parametrize("entry", ["bench/", "search_spaces/", "tests/", "launch.py", "cluster.yaml", "pyproject.toml"])
def test_the_entries_everyone_relies_on_exist(entry: str) -> None:
    path = ROOT / entry
    assert path.is_dir() if entry.endswith("/") else path.is_file()
