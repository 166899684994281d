"""Starting Ray, or joining it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from bench.spec import SpecError

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


def start_ray(address: str | None, *, folder: Path, cores: int | None = None) -> None:
    """Start Ray on this machine, or join the cluster at ``address``.

    Args:
        folder: of the project, from which workers import ``bench``.
        cores: that Ray may use of this machine; all that it finds if None.

    Raises:
        SpecError: there is no cluster at that address.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is None:
        # By the environment, not by a runtime_env: Ray's own spare processes can then become our actors.
        with _importable(folder):
            # "local" by name: a RAY_ADDRESS in the environment must not take the launch to a cluster nobody asked for.
            ray.init("local", include_dashboard=False, num_cpus=cores, **quiet)
        return
    try:
        excludes = [".git", ".venv", "results", "**/__pycache__"]
        settings = {name: os.environ[name] for name in RAY_SETTINGS}
        environment = {"working_dir": str(folder), "excludes": excludes, "env_vars": settings}
        ray.init(address, runtime_env=environment, **quiet)
    except (ConnectionError, ValueError) as error:
        raise SpecError(f"cannot join a Ray cluster at --address {address}: {error}") from None


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let the processes that are started meanwhile import from a folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def stop_ray() -> None:
    """End what was started, or leave the cluster."""
    ray.shutdown()
