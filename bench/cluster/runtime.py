"""Starting Ray, or joining it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray._private import ray_constants
from ray._raylet import Config  # type: ignore[attr-defined]

from bench.cluster import guardian
from bench.cluster.guardian import Farewell
from bench.spec import SpecError

if TYPE_CHECKING:
    from bench.cluster.inspection import Needs

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent.parent

RAY_SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor a slot, for checkpoints that a slot does not have
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the launch, not only the search
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records and MLflow say it all
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no metric
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # a search is not restored
}
"""These are in the environment of every process of a launch; what the user has set stays."""

NEEDED = {"RAY_TRAIN_V2_ENABLED": "1"}
"""Without these there is no launch, so that they are set in any case."""

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"

HERE_SETTINGS = {
    ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # all of Ray's servers listen on 127.0.0.1, on Linux too
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
    "RAY_AUTH_MODE": "token",
    "RAY_task_events_report_interval_ms": "0",  # a note of every call, for a dashboard that is not started
}
"""The same for a Ray of the launch's own on this machine, which nobody else is to reach."""

ELSEWHERE = (
    "RAY_ADDRESS",
    "RAY_NAMESPACE",
    "RAY_OVERRIDE_RESOURCES",
    "RAY_OVERRIDE_LABELS",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE,
)
"""These describe another Ray than the launch's own."""

TRIES = 3
"""Ray is started so often: it gives its processes a fixed time, which a machine that is busy may exceed."""

LONGEST_SOCKET = 103
"""Bytes of a Unix socket's path: 107 on Linux, 103 on macOS."""

SOCKET = "bench-12345678/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest of Ray's sockets, below the folder for temporary files."""

ROOM = 64 * 2**20
"""Bytes that Ray's logs and sockets, and the temporary files of workers, may need."""

SILENT = Farewell()

WAKE = signal.SIGUSR2
"""Gets the main thread out of whatever it waits for, also where Ctrl-C is ignored (nohup)."""

KNOCK_SECONDS = 10.0
"""A cluster that is to be joined answers within so many seconds."""

WATCH_SECONDS = 0.5

LOST_SECONDS = 15.0
"""Without Ray the launch may take so long to end: a call to what has gone may not return."""

_guardian: subprocess.Popen[str] | None = None
_place: Path | None = None
"""The private folder of the Ray that was started here."""

_lost: list[str] = []
"""Of Ray's own processes the one that has ended by itself."""


class RayLost(Exception):
    """One of Ray's own processes has ended by itself, so the launch has to end; the message says which."""


def start_ray(
    address: str | None,
    *,
    folder: Path | None,
    cores: int | None = None,
    farewell: Farewell = SILENT,
    screen: int | None = None,
) -> list[str]:
    """Start Ray on this machine, or join the cluster at ``address``.

    Args:
        folder: of the project, from which workers import ``bench``; None where it is an installed package: workers
            on this machine find it themselves, and the nodes of a cluster are sent it.
        cores: that Ray may use of this machine; all that it finds if None.
        farewell: what is done if this process ends without :func:`stop_ray`.
        screen: file descriptor on which it is said; stdout if None.

    Returns:
        What of the environment was not heeded, in sentences.

    Raises:
        SpecError: there is no cluster at that address, or Ray cannot be started here.
    """
    needed = _overridden().items()
    said = [f"{name}={os.environ[name]} is not heeded: a launch needs {value}" for name, value in needed]
    os.environ.update(NEEDED)
    _default(RAY_SETTINGS)
    if address is not None:
        _join(address, folder)
        return said
    if foreign := [name for name in ELSEWHERE if os.environ.pop(name, None) is not None]:
        said.append(f"{', '.join(foreign)} is not heeded: on this machine a launch starts a Ray of its own")
    _default(HERE_SETTINGS)
    # The token of this process's launches, which their processes inherit: whoever has none is not let in.
    _default({"RAY_AUTH_TOKEN": secrets.token_hex(32)})
    Config.initialize("")  # it has been read when Ray was imported
    ray_constants.ENABLE_RAY_CLUSTER = os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] != "0"
    _start(folder, cores, lambda: _watched(farewell, screen))
    return said


def _overridden() -> dict[str, str]:
    said = {name: os.environ.get(name, value).lower() for name, value in NEEDED.items()}
    return {name: NEEDED[name] for name, value in said.items() if value not in (NEEDED[name], "true")}


def _default(settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)


QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


def _knock(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself would try it for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return  # Ray finds ``auto`` by itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SpecError(f"cannot join a Ray cluster at --address {address}: nothing answers there ({error})") from None


def _join(address: str, folder: Path | None) -> None:
    _knock(address)
    settings = {name: os.environ[name] for name in (*RAY_SETTINGS, *NEEDED)}
    environment: dict[str, Any] = {"env_vars": settings} | _code(folder)
    try:
        ray.init(address, runtime_env=environment, **QUIET)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise SpecError(f"cannot join a Ray cluster at --address {address}: {_first_line(error)}") from None


def _code(folder: Path | None) -> dict[str, Any]:
    """What of a runtime environment sends a cluster's nodes the code: the project's folder, or the installed package.

    Nothing for a Ray job that has brought its own, which Ray refuses to be given a second time.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    what = {"py_modules": [str(PACKAGE)]} if folder is None else {"working_dir": str(folder)}
    if what.keys() & (job.get("runtime_env") or {}).keys():
        return {}
    return {**what, "excludes": [".git", ".venv", "results", "**/__pycache__"]}


def _start(folder: Path | None, cores: int | None, place_of: Callable[[], Path]) -> None:
    """Start Ray in a new private folder, again if it takes too long."""
    reason = ""
    for _ in range(TRIES):
        place = place_of()
        # By the environment, not by a runtime_env: Ray's own spare processes can then become our actors.
        path = os.pathsep.join(filter(None, [str(folder or ""), os.environ.get("PYTHONPATH", "")]))
        try:
            with _environment(PYTHONPATH=path, TMPDIR=str(place)), _own_signals():
                # "local" by name: whatever else names a cluster, nobody asked for it.
                ray.init("local", include_dashboard=False, num_cpus=cores, _temp_dir=str(place), **QUIET)
            return
        except Exception as error:
            log.exception("Ray did not start")
            reason = _first_line(error)
            stop_ray()
    raise SpecError(
        f"Ray could not be started on this machine in {TRIES} tries ({reason}): is it out of memory or busy?"
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Let the processes that are started meanwhile have these variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's way of being ended, which ``ray.init`` replaces by one of its own; SIGHUP has to wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    # What is blocked stays so in Ray's processes, which a terminal that goes away must not end before this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        yield
    except SystemExit as ended:
        signal.signal(signal.SIGTERM, before)
        if ended.code == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


def _watched(farewell: Farewell, screen: int | None) -> Path:
    """A new private folder for Ray, and a guardian that ends what is left of Ray when this process has gone."""
    global _guardian, _place
    _place = place = Path(tempfile.mkdtemp(prefix="bench-", dir=short_folder()))
    command = [sys.executable, "-I", guardian.__file__, str(place)]
    _guardian = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=screen, start_new_session=True, text=True, bufsize=1
    )
    instead(farewell)
    return place


def instead(farewell: Farewell) -> None:
    """From now on this is what is done if this process ends without :func:`stop_ray`; nothing where it joined a Ray."""
    if _guardian is not None and _guardian.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # somebody has killed it
            _guardian.stdin.write(json.dumps(dataclasses.asdict(farewell)) + "\n")


def short_folder() -> Path:
    """A folder for temporary files in which a Unix socket's path is not too long: the user's, or else ``/tmp``.

    Raises:
        SpecError: there is none, or it has too little room.
    """
    named = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"]
    places = [Path(place).absolute() for place in named if place]
    fitting = [place for place in places if len(os.fsencode(place / SOCKET)) <= LONGEST_SOCKET]
    usable = [place for place in fitting if os.access(place, os.W_OK | os.X_OK)]
    if not usable:
        raise SpecError(
            f"Ray's sockets do not fit into {places[0]} (their paths may have {LONGEST_SOCKET} bytes), and /tmp cannot "
            f"be written to: set TMPDIR to a folder with a short name"
        )
    free = shutil.disk_usage(usable[0]).free
    if free < ROOM:
        raise SpecError(
            f"{free / 2**20:.0f} MiB are free in {usable[0]}, and Ray needs {ROOM / 2**20:.0f} MiB there for its logs "
            f"and temporary files: make room, or set TMPDIR to another folder"
        )
    return usable[0]


def stop_ray() -> None:
    """End what was started, or leave the cluster."""
    global _guardian, _place
    try:
        if not _lost:  # it would wait for what has gone
            ray.shutdown()
    finally:
        if _guardian is not None and _guardian.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # somebody has killed it
                _guardian.stdin.write(guardian.GOODBYE)
                _guardian.stdin.close()
            _guardian.wait()
        _guardian = _place = None


def end_workers() -> None:
    """Kill the workers of the Ray that was started here, whatever they are doing."""
    if _place is None:
        return
    for process in guardian.writers(_place):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == "ray::RayTrainWorker":
                process.kill()


def lost() -> bool:
    """Whether there is no Ray any more to talk to."""
    return bool(_lost)


@contextmanager
def ended_with_ray(*, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """End what is done in here, by the main thread, as soon as one of the processes that are Ray has ended.

    Ray itself would go on for a while, and then end this process without a word.

    Args:
        unless: something else is ending it already, which must not be cut off.

    Raises:
        RayLost: one has, or the board has.
    """
    family = psutil.Process().children()
    watched = [process for process in family if process.name() in ("raylet", "gcs_server")]
    over = threading.Event()

    def wake(number: int, frame: object) -> None:
        if not over.is_set() and not unless():
            over.set()
            raise KeyboardInterrupt  # of all exceptions the one that comes through Ray unchanged

    before = signal.signal(WAKE, wake)
    thread = threading.Thread(target=_watch, args=(watched, over), name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        if unless():
            raise
        if _lost:
            raise RayLost(f"Ray's {_lost[0]} has ended unexpectedly") from None
        if isinstance(error, ray.exceptions.ActorDiedError):  # met here before the listener has
            log.exception("a call of the launch's own was not answered")
            raise RayLost("the process of the board has ended unexpectedly") from None
        raise
    finally:
        over.set()
        thread.join()
        signal.signal(WAKE, before)


def _watch(watched: Sequence[psutil.Process], over: threading.Event) -> None:
    names = {process.pid: process.name() for process in watched}
    while not over.wait(WATCH_SECONDS):
        gone = [process for process in watched if not _runs(process)]
        if gone and not _lost:
            _lost.append(names[gone[0].pid])
            _end_late()
        if _lost:  # until it is heard: a signal that comes just before the main thread begins to wait is not
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE)


def _end_late() -> None:
    """End this process soon, as Ray would after a minute; its guardian does what is left to be done."""
    timer = threading.Timer(LOST_SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def torch_config(needs: Needs | None) -> Any:
    """How the workers of a group find each other: on one machine through a file that nobody else may open.

    Args:
        needs: what their nodes must have; they are not looked at if None.
    """
    from bench.cluster.groups import GroupConfig

    return GroupConfig(needs=needs, folder="" if _place is None else str(_place))
