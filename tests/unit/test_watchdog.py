"""What a process that trains leaves behind, in processes of their own: exits, fatal signals, and standing still."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.cluster import watchdog
from bench.cluster.board import MARK, Snapshots
from bench.cluster.pool import _first_reason

HEADER = """
import ctypes, os, sys, time
from pathlib import Path
from bench.cluster import watchdog
watchdog.GRACE_SECONDS = 0.5
words, said = Path(sys.argv[1]), Path(sys.argv[2])
def stand(stack):
    said.write_text(stack)
    return True
def trial():
"""

FOOTER = """
with watchdog.noting(words, stand, {seconds}):
    trial()
"""


def ended(body: str, folder: Path, *, seconds: float | None = None) -> tuple[int, str, str]:
    """Exit code of a process that does something under the watchdog, its last words, and what it told the board."""
    words, said = folder / "slot-0-rank-0.txt", folder / "said"
    code = HEADER + f"    {body}\n" + FOOTER.format(seconds=seconds)
    done = subprocess.run([sys.executable, "-c", code, str(words), str(said)], capture_output=True, check=False)
    return done.returncode, *(path.read_text() if path.exists() else "" for path in (words, said))


@pytest.mark.parametrize(
    ("body", "code", "first"),
    [
        ("os._exit(3)", 3, "os._exit(3) was called:"),
        ("ctypes.string_at(0)", -11, "Fatal Python error: Segmentation fault"),
        ("os.abort()", -6, "Fatal Python error: Aborted"),
    ],
)
def test_a_process_that_ends_itself_says_how_and_where(body: str, code: int, first: str, tmp_path: Path) -> None:
    found, words, said = ended(body, tmp_path)
    assert (found, words.splitlines()[0], said) == (code, first, "")
    assert "in trial" in words


def test_a_forked_process_leaves_no_words(tmp_path: Path) -> None:
    assert ended("os.fork() or os._exit(0); os.wait()", tmp_path) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_who_stands_still_says_where_and_ends(tmp_path: Path) -> None:
    code, _, said = ended("time.sleep(60)", tmp_path, seconds=0.2)
    assert code == 1
    assert "in trial" in said


def test_who_stands_still_in_c_ends_too(tmp_path: Path) -> None:
    """It holds Python's lock, so that no other thread can say anything."""
    code, words, said = ended("ctypes.PyDLL(None).sleep(60)", tmp_path, seconds=0.2)
    assert (code, said) == (1, "")
    assert words.startswith("Timeout (")
    assert "in trial" in words


def test_who_is_done_in_time_leaves_nothing(tmp_path: Path) -> None:
    assert ended("time.sleep(0.1)", tmp_path, seconds=0.5) == (0, "", "")


def test_a_machine_that_does_not_see_the_folder_says_so_once(tmp_path: Path) -> None:
    snapshots = Snapshots(str(tmp_path), "mine")
    with pytest.warns(RuntimeWarning, match="no checkpoints are kept, as this machine does not see") as warned:
        assert watchdog.here(snapshots) is None
        (tmp_path / MARK).write_text("of another launch, on another machine")
        assert watchdog.here(snapshots) is None
    assert len(warned) == 1
    (tmp_path / MARK).write_text("mine")
    assert watchdog.here(snapshots) == tmp_path


def test_the_reason_of_a_group_is_that_of_the_process_that_died() -> None:
    """What the other ranks raise follows from it."""
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    def reason(death: Exception, *words: str) -> str:
        failures = {0: RuntimeError("closed by peer"), 1: WorkerHealthCheckFailedError("failed", death)}
        return _first_reason(WorkerGroupError("two workers failed", failures), words)

    died = RayActorError(error_msg="Worker unexpectedly exits with a connection error code 2.")
    assert "the process of rank 1 was killed by SIGKILL (signal 9)" in reason(died)
    assert reason(died, "slot-0-rank-1: Fatal Python error: Segmentation fault\n\nstack") == (
        "the process of rank 1 died: Segmentation fault"
    )
    assert "SIGTERM" in reason(RayActorError(error_msg="The process receives a SIGTERM."))
    assert reason(OutOfMemoryError("more than 95 % of the memory")).startswith("OutOfMemoryError: more than 95 %")
