"""Being ended by a signal: once, in good order, with a sentence, and in time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import signal, sys, time
from bench.launching import command, signals

signals.SECONDS = {seconds}

def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        time.sleep({tidying})
        print("tidy", flush=True)

command.leave(command.exit_code(main, interrupted="interrupted: go on with it"))
"""


def start(*, tidying: float = 0.5, seconds: float = 25.0, ignored: bool = False) -> subprocess.Popen[str]:
    code = PROGRAM.format(tidying=tidying, seconds=seconds)

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order_however_often_it_comes(number: signal.Signals, times: int) -> None:
    process = start()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (128 + number, "tidy\n", "interrupted: go on with it\n")


def test_tidying_up_that_takes_too_long_is_cut_off() -> None:
    process = start(tidying=60, seconds=0.5)
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (128 + signal.SIGTERM, "", "interrupted: go on with it\n")


def test_what_nohup_lets_it_ignore_stays_ignored() -> None:
    process = start(ignored=True)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


def test_what_is_made_is_private(tmp_path: Path) -> None:
    code = (
        "import os, sys; from bench.launching import command\n"
        "command.exit_code(lambda: os.makedirs(sys.argv[1] + '/a/b') or open(sys.argv[1] + '/a/c', 'w').close() or 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, umask=0o022)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/c")] == [0o700, 0o700, 0o600]
