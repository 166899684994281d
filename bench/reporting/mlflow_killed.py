"""The runs of a launch that was killed: nobody else ends them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.reporting.mlflow_content import INTERRUPTED, LAUNCH, PARENT, STATUS
from bench.reporting.mlflow_store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


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
    for parent in store.search_runs(experiments, f"tags.{LAUNCH} = '{launch}'"):
        for run in [*_running_in(store, parent), parent]:
            if run.info.status == "RUNNING":
                store.set_tag(run.info.run_id, STATUS, INTERRUPTED)
                store.set_terminated(run.info.run_id, "KILLED")


def _running_in(store: MlflowClient, outer: Run) -> list[Run]:
    """The runs that are said to be running in another one, however deep."""
    wanted = f"tags.`{PARENT}` = '{outer.info.run_id}' and attributes.status = 'RUNNING'"
    found = list(store.search_runs([outer.info.experiment_id], wanted))
    return [*(inner for run in found for inner in _running_in(store, run)), *found]
