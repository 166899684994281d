"""Places that are full or small: results, cache, ``/dev/shm`` of a container; and odd environment variables.

Those that are full or small need a mount of their own (``unshare -m``), and are skipped where that is not allowed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.contract.test_folders import classes
from tests.faults.harness import ROOT, Fault, Launch, folder

SMALL = "8m"
UNSHARED = "BENCH_FAULTS_UNSHARED"


def mount(place: Path | str, size: str) -> None:
    """A new file system in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)


def fill(place: Path) -> Path:
    """A file that takes all the room there is."""
    filler = place / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        return filler


def results(place: Path) -> bool:
    """The results' file system fills up in the middle of a search."""
    fault = Fault("results folder full")
    disk = place / "disk"
    disk.mkdir()
    mount(disk, SMALL)
    launch = Launch(disk / "results", trials=6)
    try:
        fault.expect(launch.wait_for_records(2), "it did not get so far")
        filler = fill(disk)
        code = launch.wait(120)
        fault.expect(code == 1, f"exit code {code}")
        last = launch.output.splitlines()[-1]
        fault.expect("No space left on device" in last and str(disk) in last, f"the last line is {last[:120]!r}")
        fault.expect("Traceback" not in launch.output, "a traceback on the screen")
        left = launch.left(30)
        fault.expect(not left, f"left: {', '.join(left)}")
        hidden = [path.name for path in launch.folder.records.glob(".*")]
        fault.expect(not hidden, f"temporary files: {hidden}")
        filler.unlink()
    finally:
        launch.end()
    return fault.report()


def no_room(place: Path) -> bool:
    """The results' file system is full from the beginning."""
    fault = Fault("results folder full before the start")
    disk = place / "full"
    disk.mkdir()
    mount(disk, SMALL)
    (disk / "results").mkdir()
    fill(disk)
    launch = Launch(disk / "results")
    try:
        code, last = launch.wait(120), (launch.output.splitlines() or [""])[-1]
        fault.expect(code == 2, f"exit code {code}")
        fault.expect(f"MiB are free in {disk / 'results'}, and this launch needs" in last, f"it says {last[:120]!r}")
        made = sorted(path.name for path in disk.rglob("*") if path.is_file())
        fault.expect(made == ["filler"], f"files: {made}")
    finally:
        launch.end()
    return fault.report()


def cache(place: Path) -> bool:
    """The cache folder is full from the beginning: everything goes on without it."""
    fault = Fault("cache folder full")
    disk = place / "cache"
    disk.mkdir()
    mount(disk, "1m")
    fill(disk)
    launch = Launch(place / "cached", trials=1, BENCH_DATA=str(disk))
    try:
        code = launch.wait()
        fault.expect(code == 0, f"exit code {code}: {launch.output[-200:]}")
        fault.expect([path.name for path in disk.rglob("*") if path.is_file()] == ["filler"], "temporary files")
    finally:
        launch.end()
    return fault.report()


def succeeds(fault: Fault, launch: Launch) -> bool:
    """Whether a launch ends as if nothing were amiss."""
    try:
        code = launch.wait()
        fault.expect(code == 0, f"exit code {code}: {launch.output[-200:]}")
    finally:
        launch.end()
    return fault.report()


def shared_memory(place: Path) -> bool:
    """A container's ``/dev/shm``, even smaller, and pictures that are decoded by loader processes."""
    fault = Fault("/dev/shm of 4 MiB")
    mount("/dev/shm", "4m")
    pictures = f"folder:{classes(place / 'pictures')}"
    data = ["--target", pictures, "--source", pictures, "--source-per-class", "8"]
    launch = Launch(place / "shm", *data, "--set", "train.crop_min=0.5", "--set", "train.batch_size=8", trials=1)
    return succeeds(fault, launch)


def long_tmpdir(place: Path) -> bool:
    """Ray's sockets would not fit into TMPDIR."""
    fault = Fault("TMPDIR of 150 characters")
    long = place / ("x" * 70) / ("y" * 70)
    long.mkdir(parents=True)
    launch = Launch(place / "long", trials=1, TMPDIR=str(long))
    return succeeds(fault, launch)


def environment(place: Path) -> bool:
    """Variables that describe another Ray, or an older one."""
    fault = Fault("RAY_ADDRESS, RAY_TRAIN_V2_ENABLED=0")
    foreign: Any = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_TRAIN_V2_ENABLED": "0", "RAY_NAMESPACE": "else"}
    launch = Launch(place / "environment", "--address", "local", trials=1, **foreign)
    try:
        code = launch.wait()
        fault.expect(code == 0, f"exit code {code}: {launch.output[-200:]}")
        for name in foreign:
            fault.expect(name in launch.output and "is not heeded" in launch.output, f"nothing was said of {name}")
    finally:
        launch.end()
    return fault.report()


def main() -> int:
    """Returns the exit code."""
    place = folder()
    if UNSHARED in os.environ:
        return 0 if all([no_room(place), results(place), cache(place), shared_memory(place)]) else 1
    done = [long_tmpdir(place), environment(place)]
    again = [sys.executable, "-m", "tests.faults.disks"]
    began = time.monotonic()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        print(f"full disks: {time.monotonic() - began:.1f} seconds, skipped (unshare -m is not allowed here)")
    else:
        mounted = subprocess.run(["unshare", "-m", *again], cwd=ROOT, env={**os.environ, UNSHARED: "1"}, check=False)
        done.append(mounted.returncode == 0)
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
