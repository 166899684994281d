"""`make gpu` on the CPU, as small as can be: no typo, no package that is not needed, no part that ends the others."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.gpu import parts
from tests.gpu.__main__ import PARTS, main
from tests.gpu.parts import Part
from tests.gpu.report import Line, Report, Result
from tests.gpu.scale import LEAST, Scale

ROOT = Path(__file__).resolve().parents[2]
ENOUGH = ("torch", "torchvision", "timm", "peft", "pydantic")
"""With these and what they require it runs."""

HIDE = """
import importlib.machinery as machinery
_find, _hidden = machinery.PathFinder.find_spec, {hidden!r}
def _spec(name, path=None, target=None):
    return None if name.partition(".")[0] in _hidden else _find(name, path, target)
machinery.PathFinder.find_spec = _spec
"""


def closure() -> set[str]:
    """Distributions that are installed with those that are enough."""
    found: set[str] = set()
    waiting = list(ENOUGH)
    while waiting:
        name = waiting.pop()
        plain = re.sub(r"[-_.]+", "-", name).lower()
        if plain in found:
            continue
        try:
            required = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:
            continue
        found.add(plain)
        waiting += [one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def hidden() -> set[str]:
    """Modules of all other distributions."""
    enough = closure()
    plain = {
        module: {re.sub(r"[-_.]+", "-", one).lower() for one in owners}
        for module, owners in metadata.packages_distributions().items()
    }
    kept = {"bench", "tests", "__editable___vit_forgetting_bench_finder"}
    return {module for module, owners in plain.items() if not owners & enough} - kept


@pytest.mark.slow
def test_everything_runs_with_torch_timm_and_peft_alone(tmp_path: Path) -> None:
    away = hidden()
    assert {"ray", "optuna", "mlflow", "pandas", "sklearn", "scipy", "matplotlib"} <= away
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(hidden=away))
    own = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.gpu", "--cpu", "--least", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = (tmp_path / "out").glob("*.json")
    found = json.loads(written.read_text())
    status = {part["name"]: part["status"] for part in found["parts"]}
    assert status == {part.name: "left out" if part.name == "study" else "done" for part in PARTS}
    assert "not here: ray, optuna, mlflow, scikit-learn" in found["parts"][-1]["reason"]
    lines = [line for part in found["parts"] for line in part["lines"]]
    assert all(line["met"] for line in lines if line["required"])
    assert sum(line["required"] for line in lines) >= 12
    assert found["machine"]["device"].endswith("CPU")
    assert written.with_suffix(".md").read_text() in done.stdout


def measures(scale: Scale) -> Iterator[Line]:
    yield Line("first", 1.0, "s")
    yield Line("second", 2.0, "s")


def raises(scale: Scale) -> Iterator[Line]:
    yield Line("first", 1.0, "s")
    raise RuntimeError("CUDA error: an illegal memory access\nand more")


def dies(scale: Scale) -> Iterator[Line]:
    yield Line("first", 1.0, "s")
    subprocess.Popen(["sleep", "60"])  # what a part has started must not keep it alive
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(scale: Scale) -> Iterator[Line]:
    yield Line("first", 1.0, "s")
    time.sleep(60)


def exits(scale: Scale) -> Iterator[Line]:
    yield Line("first", 1.0, "s")
    sys.exit("enough")


@pytest.mark.parametrize(
    ("what", "status", "reason", "lines"),
    [
        ("measures", "done", "", 2),
        ("raises", "failed", "RuntimeError: CUDA error: an illegal memory access", 1),
        ("dies", "failed", r"its process ended with signal 9 \(SIGKILL\)", 1),
        ("hangs", "cut", "its time was up", 1),
        ("exits", "failed", "SystemExit: enough", 1),
    ],
)
def test_whatever_ends_a_part_its_lines_are_kept(
    what: str, status: str, reason: str, lines: int, tmp_path: Path
) -> None:
    heard: list[str] = []
    part = Part(what, f"tests.unit.test_gpu:{what}", 60)
    began = time.perf_counter()
    found = parts.run(
        part,
        LEAST,
        seconds=0.5 if what == "hangs" else 20,
        method="fork",
        log=tmp_path / "log",
        tell=lambda result: heard.append(result.lines[-1].name),
    )
    assert time.perf_counter() - began < 15
    assert found.status == status
    assert re.fullmatch(reason, found.reason)
    assert heard == [line.name for line in found.lines] == ["first", "second"][:lines]
    assert found.good is (status == "done")


def test_a_part_runs_in_a_process_that_was_started_anew(tmp_path: Path) -> None:
    part = Part("measures", "tests.unit.test_gpu:measures", 60)
    found = parts.run(part, LEAST, seconds=60, method="spawn", log=tmp_path / "log", tell=lambda result: None)
    assert (found.status, [line.name for line in found.lines]) == ("done", ["first", "second"])


def test_a_part_whose_needs_are_missing_says_what_to_install(tmp_path: Path) -> None:
    def run(**needs: tuple[str, ...]) -> Result:
        part = Part("x", "tests.unit.test_gpu:measures", 60, **needs)
        return parts.run(part, LEAST, seconds=9, method="fork", log=tmp_path / "log", tell=print)

    needed = run(needs=("no_such_package",))
    assert (needed.status, needed.good) == ("failed", False)
    assert needed.reason == "not here: no_such_package (python -m pip install no_such_package)"
    beside = run(needs=(), extra=("yaml", "no_such_package"))
    assert (beside.status, beside.good) == ("left out", True)
    late = parts.run(Part("x", "-", 9, needs=()), LEAST, seconds=0, method="fork", log=tmp_path / "log", tell=print)
    assert (late.status, late.reason) == ("cut", "no time was left for it")


def test_a_report_is_good_only_if_all_of_it_is(tmp_path: Path) -> None:
    wrong = Line("loss", 0.01, goal=("<=", 1e-3), required=True)
    unknown = Line("loss", float("nan"), goal=("<=", 1e-3), required=True)
    slow = Line("speed", 0.4, goal=(">=", 0.5), note="a | b")
    assert (wrong.wrong, unknown.wrong, slow.wrong, slow.met) == (True, True, False, False)
    report = Report(tmp_path / "a.json", {}, {"device": "H100"}, [Result("speed", "done", lines=[slow])])
    assert report.good
    report.parts.append(Result("later"))
    assert not report.good
    report.parts[1] = Result("later", "done", lines=[unknown])
    assert not report.good
    report.write()
    found = json.loads(report.path.read_text(), parse_constant=pytest.fail)
    assert found["parts"][1]["lines"][0]["value"] is None
    assert found["parts"][1]["lines"][0]["met"] is False
    assert "| speed | speed | 0.4 | >= 0.5: missed | a / b |" in (tmp_path / "a.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "spede"], "invalid choice"),
        (["--least"], "--least is for --cpu"),
        (["--cpu", "--seconds", "0"], "--seconds must be above 0"),
        (["--cpu", "--seconds", "nan"], "--seconds must be above 0"),
        (["--cpu", "--out", "/dev/null/x"], "--out /dev/null/x cannot be written to"),
    ],
)
def test_bad_arguments_end_at_once(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.gpu.__main__._environment", lambda folder, cpu: None)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def ends_the_run(scale: Scale) -> Iterator[Line]:
    os.kill(os.getppid(), signal.SIGTERM)
    yield from hangs(scale)


ENDED = (("methods", "ends_the_run"), ("precisions", "measures"))


def ended(out: str) -> None:
    """A run whose second part ends it."""
    own = [Part(name, f"tests.unit.test_gpu:{what}", 60) for name, what in (("device", "measures"), *ENDED)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.gpu.__main__.PARTS", own)
        patch.setattr("tests.gpu.__main__.PRELOADED", ())
        main(["--cpu", "--least", "--only", *(name for name, _ in ENDED), "--out", out])


def test_a_run_that_is_ended_has_written_what_was_still_to_come(tmp_path: Path) -> None:
    running = multiprocessing.get_context("fork").Process(target=ended, args=(str(tmp_path),))
    running.start()
    running.join()
    assert running.exitcode == 128 + signal.SIGTERM
    (written,) = tmp_path.glob("*.json")
    found = json.loads(written.read_text())
    assert [(part["name"], part["status"]) for part in found["parts"]] == [
        ("device", "done"),
        ("methods", "to come"),
        ("precisions", "to come"),
    ]
    assert not found["good"]


def test_make_takes_any_python_where_there_is_no_environment() -> None:
    command = ["make", "gpu", "VENV=/nonexistent", "PYTHON=echo", "ARGS=--cpu"]
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=True)
    assert done.stdout == "-m tests.gpu --cpu\n"
