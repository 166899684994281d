"""Every command of the README is run here, on a small study where it would take long."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

import launch as front_door
from bench.__main__ import main
from bench.data import shapes

from .conftest import ROOT, SECONDS, Run, Start

pytestmark = pytest.mark.timeout(600)

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.M | re.S)
COMMANDS = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


def succeed(command: list[str], folder: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def run_make(target: str) -> None:
    """What the target would do; that it does it is what the checks of this project run."""
    done = succeed(["make", "--dry-run", "--always-make", target])
    assert {"study": "launch.py --study block_expansion", "test": "-m pytest"}[target] in done


def run_launch(arguments: list[str]) -> None:
    extra = [] if "--list" in arguments or "--dry-run" in arguments else ["--dry-run"]
    assert front_door.main([*arguments, *extra]) == 0


def run_bench(arguments: list[str], small: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command on the small study's results, in an empty folder."""
    monkeypatch.chdir(folder)
    results = folder / "results/paper/tiny"
    shutil.copytree(small.folder, results)
    record = small.folder / "records" / "block_expansion-confirm-p1-seed0.json"
    weights = small.folder / "checkpoints" / "block_expansion-confirm-p1-seed0.safetensors"
    shutil.copy(record, results / "records" / "lora-confirm-rank8-seed0.json")
    shutil.copy(weights, results / "checkpoints" / "lora-confirm-rank8-seed0.safetensors")
    if arguments[0] in ("leaderboard", "compare", "pack", "sync"):
        (results / "records" / "lora-confirm-rank8-seed0.json").unlink()
    if arguments[0] == "predict":
        Image.new("L", (50, 70), 128).save(folder / "picture.png")
        assert main(["export", str(record), "--out", str(folder / "model.safetensors")]) == 0
    extra = []
    if arguments[0] == "pretrain":
        extra = ["--steps", "2"]
        few = {name: (count // 10, seed) for name, (count, seed) in shapes.SPLITS.items()}
        monkeypatch.setattr(shapes, "SPLITS", few)
    assert main([*arguments, *extra]) == 0


def run_mlflow(arguments: list[str], small: Run, start: Start) -> None:
    """The interface starts on the study's database."""
    assert arguments == ["ui", "--backend-store-uri", "sqlite:///results/mlflow.db"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = f"sqlite:///{small.folder.parents[1] / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port)]
    alone = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # which would start eight more processes
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = start([*command, "--workers", "1"], env=alone, **quiet)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert server.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                assert answer.read() == b"OK"
                return
        except urllib.error.URLError:
            time.sleep(0.5)
    pytest.fail("mlflow ui did not answer")


def run_ray(arguments: list[str]) -> None:
    """No cloud here: Ray's own check of the file stands for the start (tests/unit/test_cluster_yaml.py has more)."""
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    assert arguments == ["up", "cluster.yaml"]
    validate_config(prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text())))


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_command(command: str, small: Run, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command)
    if program == "make":
        run_make(*arguments)
    elif program == "mlflow":
        run_mlflow(arguments, small, start)
    elif program == "ray":
        run_ray(arguments)
    elif arguments[0] == "launch.py":
        run_launch(arguments[1:])
    else:
        assert (program, *arguments[:2]) == ("python", "-m", "bench")
        run_bench(arguments[2:], small, tmp_path, monkeypatch)


def test_pictures_exist() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert len(pictures) == 3
    assert all((ROOT / picture).is_file() for picture in pictures)
