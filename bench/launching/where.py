"""Where a launch runs and logs: what the command line says, or else the environment; and why, in a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from bench.reporting.mlflow_store import without_password
from bench.spec import LaunchOptions, SpecError

RAY, MLFLOW = "RAY_ADDRESS", "MLFLOW_TRACKING_URI"
"""Ray's and MLflow's own commands heed these."""

HERE = "local"
"""This address keeps a launch on the machine where the command is given."""


def resolved(options: LaunchOptions, environment: Mapping[str, str] = os.environ) -> tuple[LaunchOptions, list[str]]:
    """The options with address and MLflow store as they count, and what is to be said of it.

    Shells and jobs of a cluster's head have both variables (``cluster.yaml``), so that the same command runs on the
    cluster there.

    Raises:
        SpecError: the address is that of a Ray client's server, on which a launch cannot run.
    """
    changes: dict[str, str | None] = {}
    said = [*_address(options, environment, changes), *_store(options, environment, changes)]
    return options.model_copy(update=changes), said


def _address(options: LaunchOptions, environment: Mapping[str, str], changes: dict[str, str | None]) -> Iterator[str]:
    told = environment.get(RAY, "").strip()
    address = told if options.address is None else options.address
    if address.startswith("ray://"):
        raise SpecError(
            f"{address} is for Ray's client, through which a launch cannot run: run it on the head, or with "
            f"`ray job submit`, or use --address {HERE}"
        )
    if address.startswith(("http://", "https://")):  # where `ray job submit` sends its jobs
        if options.address is not None:
            raise SpecError(f"--address {address} is where jobs are submitted: give the host:port of the cluster's GCS")
        yield f"{RAY}={address} is where jobs are submitted, not a cluster to join: the launch runs on this machine"
        address = HERE
    elif told and options.address is None and address != HERE:
        yield f"Runs on the Ray cluster at {address} ({RAY}; --address {HERE} keeps it on this machine)"
    elif options.address is not None and address != HERE:
        yield f"Runs on the Ray cluster at {address} (--address)"
    changes["address"] = None if address in ("", HERE) else address


def _store(options: LaunchOptions, environment: Mapping[str, str], changes: dict[str, str | None]) -> Iterator[str]:
    told = environment.get(MLFLOW, "").strip()
    if options.tracking_uri is None and told:
        changes["tracking_uri"] = told
        yield f"Logs to MLflow at {without_password(told)} ({MLFLOW}; --tracking-uri names another)"
