"""The runs of a launch that was killed: nobody else ends them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.reporting.mlflow_store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"


def opened(uri: str) -> MlflowClient:
    """A store that answers soon or not at all."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    return open_store(uri)


def mark(store: MlflowClient, launch: str) -> None:
    """End all runs of a launch that are still said to be running, as those of one that was interrupted.

    Args:
        launch: its id, which stands in the tag ``launch`` of its parent run.
    """
    experiments = [experiment.experiment_id for experiment in store.search_experiments()]
    for parent in store.search_runs(experiments, f"tags.launch = '{launch}'"):
        place, name = [parent.info.experiment_id], parent.info.run_id
        children = store.search_runs(place, f"tags.`{PARENT}` = '{name}' and attributes.status = 'RUNNING'")
        for run in [*children, parent]:
            if run.info.status == "RUNNING":
                store.set_tag(run.info.run_id, "status", "interrupted")
                store.set_terminated(run.info.run_id, "KILLED")
