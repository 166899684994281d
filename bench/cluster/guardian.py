"""Ends what a local Ray would leave behind, however the process that started it has ended.

It runs as a program of its own (``python guardian.py FOLDER``), in a session of its own, and waits for the end of its
standard input: the other end of that pipe is held by nobody but the launch. Then it ends every process that still holds
a file in Ray's folder open for writing, as each of Ray's does (its log), and removes the folder.

Each line that it reads is a :class:`Farewell` as JSON, which takes the place of the one before, but for the last, which
says goodbye. Without that the launch had no time to do so, because it was killed, or ended by Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

NOW = "{the time of the end}"


@dataclass(frozen=True)
class Farewell:
    """What is done when a launch has ended without a word: a sentence is printed, and a command run.

    :data:`NOW` stands in the sentence for the time, which is not known before. ``input`` is what the command reads:
    unlike its arguments it is seen by nobody else.
    """

    sentence: str = ""
    command: tuple[str, ...] = ()
    input: str = ""

    def say(self) -> None:
        """Print the sentence and run the command, which has a minute."""
        with contextlib.suppress(OSError):  # the terminal may have gone
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            print(self.sentence.replace(NOW, now), flush=True)
        if self.command:
            subprocess.run(self.command, input=self.input.encode(), timeout=60, check=False)


GOODBYE = "goodbye"

SECONDS = 15.0
"""Processes are looked for at most so long; a killed one needs a moment to go."""


def writers(folder: Path) -> list[psutil.Process]:
    """Processes that have a file in a folder open for writing, but for this one and the one that started it."""
    spared = {os.getpid(), os.getppid()}
    return [process for process in psutil.process_iter() if process.pid not in spared and _writes(process, folder)]


def _writes(process: psutil.Process, folder: Path) -> bool:
    try:
        files = process.open_files()
    except psutil.Error:  # somebody else's, or gone
        return False
    # Where the system does not say how a file was opened (macOS), every open file counts.
    return any(folder in Path(file.path).parents and getattr(file, "mode", "w") != "r" for file in files)


def end(folder: Path) -> None:
    """Kill what writes to a folder until there is nothing more, and remove the folder."""
    latest = time.monotonic() + SECONDS
    while (found := writers(folder)) and time.monotonic() < latest:
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when the launch has gone
    farewell, orderly = Farewell(), False
    for line in sys.stdin:
        orderly = line.strip() == GOODBYE
        farewell = farewell if orderly else Farewell(**json.loads(line))
    end(Path(sys.argv[1]))
    if not orderly:
        farewell.say()
