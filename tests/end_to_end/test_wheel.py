"""The package as people install it: a wheel, in an environment that knows nothing of the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.test_house import our_files

from .conftest import ROOT

pytestmark = pytest.mark.xdist_group("wheel")  # built once

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@dataclass(frozen=True)
class Installed:
    """A wheel and an environment into which it was installed."""

    wheel: Path
    programs: Path

    def run(self, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in a folder."""
        plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        program, *arguments = command
        return subprocess.run(
            [self.programs / program, *arguments], cwd=folder, env=plain, capture_output=True, text=True, timeout=120
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built and installed without the network; what it depends on is that of these tests' environment."""
    place = tmp_path_factory.mktemp("wheel")
    for file in our_files():
        if file.is_file() and file.relative_to(ROOT).parts[0] not in ("tests", "docs", "results"):
            copied = place / "source" / file.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copied)
    subprocess.run([sys.executable, "-c", BUILD, str(place)], cwd=place / "source", capture_output=True, check=True)
    (wheel,) = place.glob("*.whl")
    shutil.rmtree(place / "source")
    venv.create(place / "env", symlinks=True)
    programs = place / "env" / "bin"
    install = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-index", "--no-deps", "--no-compile", str(wheel)], check=True)
    (own,) = (place / "env").glob("lib/python*/site-packages")
    environment = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    # Lines of a .pth are folders to import from; the .pth files in those, such as a clone's, are not heeded.
    (own / "environment.pth").write_text("".join(f"{path}\n" for path in environment))
    return Installed(wheel, programs)


def test_the_wheel_holds_the_package_its_assets_and_the_studies(installed: Installed) -> None:
    held = {name for name in zipfile.ZipFile(installed.wheel).namelist() if ".dist-info/" not in name}
    tracked = [file.relative_to(ROOT) for file in our_files() if file.is_file()]
    package = {path.as_posix() for path in tracked if path.parts[0] == "bench"}
    studies = {f"bench/{path.as_posix()}" for path in tracked if path.parts[0] == "search_spaces"}
    assert {"bench/assets/tiny.safetensors", "bench/py.typed", "bench/methods/lora.py"} <= package
    assert "bench/search_spaces/paper.yaml" in studies
    assert held == package | studies


@pytest.mark.slow
def test_it_launches_from_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "vit-forgetting-bench", "launch", "--study", "linear", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "linear                                650 trainable parameters" in done.stdout
    assert f"Results:   {tmp_path / 'results' / 'linear' / 'tiny'}" in done.stdout


def test_it_knows_the_studies_and_how_it_is_called(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "vit-forgetting-bench", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {path.stem} " in done.stdout for path in (ROOT / "search_spaces").glob("*.yaml"))
    done = installed.run(tmp_path, "vit-forgetting-bench", "launch", "--help")
    assert "usage: vit-forgetting-bench launch" in done.stdout
    assert "vit-forgetting-bench launch --study block_expansion --dry-run" in done.stdout
    assert "launch.py" not in done.stdout
    done = installed.run(tmp_path, "vit-forgetting-bench", "launch", "--study", "blok_expansion")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown study 'blok_expansion'; did you mean 'block_expansion'?")


def test_its_code_comes_from_the_wheel_and_is_no_other_projects_commit(installed: Installed, tmp_path: Path) -> None:
    git = ["git", "-C", str(installed.programs.parent), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "another project"], check=True)
    code = (
        "from bench import records; from bench.launching import project; "
        "print(project.CLONE, project.STUDIES); print(records.provenance()['commit'])"
    )
    done = installed.run(tmp_path, "python", "-c", code)
    shutil.rmtree(installed.programs.parent / ".git")
    assert done.returncode == 0, done.stderr
    (site,) = installed.programs.parent.glob("lib/python*/site-packages")
    assert done.stdout.splitlines() == [f"None {site / 'bench' / 'search_spaces'}", "None"]
