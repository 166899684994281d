"""An MLflow server dies and comes back, is stopped and goes on, and is gone when a launch ends."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from bench.__main__ import main as bench
from bench.folder import LaunchFolder
from tests.faults._tracked import faults_of, opened, said, trial, written


class Server:
    """An MLflow server of its own, in a session of its own."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = f"-m mlflow server --host 127.0.0.1 --port {self.port} --workers 1 --serve-artifacts"
        store = ["--backend-store-uri", f"sqlite:///{self.place}/m.db", "--artifacts-destination", f"{self.place}/a"]
        with (self.place / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command.split(), *store],
                cwd=self.place,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.5)
        raise TimeoutError("no MLflow server within two minutes")

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


def away(server: Server, number: signal.Signals, seconds: float, name: str) -> bool:
    began, folder = time.monotonic(), LaunchFolder.of(Path(tempfile.mkdtemp()), "faults", "tiny")
    tracker = opened(server.uri, folder)
    trial(tracker, folder, "t0")
    trial(tracker, folder, "t1")
    written(tracker)
    server.signal(number)
    trial(tracker, folder, "t2")
    time.sleep(seconds)
    if number == signal.SIGKILL:
        server.start()
    else:
        server.signal(signal.SIGCONT)
    trial(tracker, folder, "t3")
    time.sleep(5)
    tracker.finish(folder, None, "FINISHED")
    tracker.close()
    time.sleep(1)
    return said(name, "all runs are there", began, tracker.problem or faults_of(server.place / "m.db", 4))


def gone(server: Server) -> bool:
    began, folder = time.monotonic(), LaunchFolder.of(Path(tempfile.mkdtemp()), "faults", "tiny")
    tracker = opened(server.uri, folder)
    trial(tracker, folder, "t0")
    written(tracker)
    server.signal(signal.SIGKILL)
    trial(tracker, folder, "t1")
    tracker.finish(folder, None, "FINISHED")
    ending = time.monotonic()
    tracker.close()
    waited = time.monotonic() - ending
    time.sleep(5)
    server.start()
    with contextlib.redirect_stdout(io.StringIO()):
        codes = [bench(["sync", str(folder.path), "--tracking-uri", server.uri]) for _ in range(2)]
    wrong = [
        f"the end waited for {waited:.0f} s" if waited > 31 else "",
        "nothing was said" if "bench sync" not in (tracker.problem or "") else "",
        f"sync: exit codes {codes}" if any(codes) else "",
        faults_of(server.place / "m.db", 2, curves=False),
    ]
    what = f"the end waited for {waited:.0f} s, sync brought the rest"
    return said("MLflow server gone at the end", what, began, ", ".join(filter(None, wrong)))


def main() -> int:
    """Returns the exit code."""
    survived = []
    for fault in (
        lambda server: away(server, signal.SIGKILL, 10, "MLflow server killed and started again"),
        lambda server: away(server, signal.SIGSTOP, 30, "MLflow server stopped for 30 s"),
        gone,
    ):
        server = Server()
        try:
            survived.append(fault(server))
        finally:
            server.signal(signal.SIGKILL)
    return 0 if all(survived) else 1


if __name__ == "__main__":
    sys.exit(main())
