"""Confirmed trials as MLflow's logged models, so that the best of all launches can be asked for in one question.

What is written here may be written again after a failure, and is there once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.records import Record
from bench.reporting.mlflow_content import DATA_OF, DataSet, data_sets
from bench.reporting.mlflow_points import rounded

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel, LoggedModelOutput

REFUSED = re.compile(r"[/:.%\"']")
"""Characters that MLflow takes in no model's name."""

KIND = "vit"
"""The type of our models in MLflow."""

EXTERNAL = "mlflow.model.isExternal"
"""MLflow's tag of a model whose files lie elsewhere: the trained tensors are among the artifacts of the trial's run."""

Dataset = tuple[str, str] | tuple[None, None]
"""Name and digest of a data set, or neither."""


def is_model(record: Record) -> bool:
    """Whether a trial becomes a logged model."""
    return record.phase == "confirm" and record.status == "ok"


def data_set_of(record: Record) -> dict[str, Dataset]:
    """On which data set each score of a record was measured; neither name nor digest where that is not known."""
    known = {one.context: (one.name, one.digest) for one in data_sets(record)}
    return {score: known.get(DATA_OF.get(score, ""), (None, None)) for score in record.scores}


def as_inputs(found: Sequence[DataSet]) -> list[DatasetInput]:
    """Data sets as inputs of a run."""
    from mlflow.entities import Dataset as Entity
    from mlflow.entities import DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    return [
        DatasetInput(
            Entity(one.name, one.digest, one.kind, one.place, profile=one.profile),
            [InputTag(MLFLOW_DATASET_CONTEXT, one.context)],
        )
        for one in found
    ]


class Models:
    """The logged models of an experiment."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        """Ask nothing yet."""
        self._client, self._experiment = client, experiment

    def of(self, run_id: str) -> list[LoggedModel]:
        """The models that a run has made, the oldest first."""
        found = self._client.search_logged_models([self._experiment], f"source_run_id = '{run_id}'")
        return sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))

    def of_launch(self, launch: str) -> list[LoggedModel]:
        """The models of all trials of a launch."""
        found, token = [], None
        while token != "":
            wanted = f"tags.launch = '{launch}'"
            page = self._client.search_logged_models([self._experiment], wanted, page_token=token)
            found += list(page)
            token = page.token or ""
        return found

    def make(self, run_id: str, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> str:
        """The id of a run's model, which is made if need be, with such a name as far as MLflow takes it.

        Of two, made since an answer got lost, one is deleted.
        """
        there = self.of(run_id)
        for model in there[1:]:
            self.remove(model.model_id)
        if there:
            return str(there[0].model_id)
        named, told = REFUSED.sub("_", name), {**tags, EXTERNAL: "true"}
        made = self._client.create_logged_model(self._experiment, named, run_id, told, dict(parameters), KIND)
        return str(made.model_id)

    def ready(self, model_id: str) -> None:
        """Say that all of a model is there."""
        from mlflow.entities import LoggedModelStatus

        self._client.finalize_logged_model(model_id, LoggedModelStatus.READY)

    def remove(self, model_id: str) -> None:
        """Delete a model."""
        self._client.delete_logged_model(model_id)

    def delete(self, run_id: str) -> None:
        """Delete what a run has made."""
        for model in self.of(run_id):
            self.remove(model.model_id)

    def is_complete(self, run_id: str, scores: Mapping[str, float], on: Mapping[str, Dataset]) -> bool:
        """Whether a run's model is there, once, with such scores on their data sets."""
        found = self.of(run_id)
        if len(found) != 1 or str(found[0].status) != "READY":
            return False
        held = {(one.key, rounded(one.value), one.dataset_name, one.dataset_digest) for one in found[0].metrics or []}
        return held >= {(name, rounded(value), *on[name]) for name, value in scores.items()}

    def put_out(self, run_id: str, models: Sequence[str], step: int) -> None:
        """Say that a run has made models, which MLflow must be told only once."""
        from mlflow.entities import LoggedModelOutput

        there = {output.model_id for output in outputs(self._client, run_id)}
        if missing := [LoggedModelOutput(model, step) for model in models if model not in there]:
            self._client.log_outputs(run_id, missing)


def outputs(client: MlflowClient, run_id: str) -> list[LoggedModelOutput]:
    """What MLflow knows a run to have made."""
    held = client.get_run(run_id).outputs
    return list(held.model_outputs) if held is not None else []
