"""What a method makes of a trained model, in MLflow: a run with a logged model, nested in the trial's run.

A run has one last value of each metric, so that a variant's scores cannot stand on the trial's run beside its own.
What is written here may be written again after a failure, and is there once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.records import Record
from bench.reporting.mlflow_content import LAUNCH, NOTE, PARENT, STATUS, data_sets, trial_note, user_tags
from bench.reporting.mlflow_logged import Models, as_inputs, data_set_of
from bench.reporting.mlflow_points import Measured, agrees, rounded, write
from bench.spec import row_label

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

VARIANT = "variant"
"""Our tag of such a run and of its model: what the method calls it (:attr:`bench.readings.Reading.variant`)."""


@dataclass(frozen=True)
class Trained:
    """A trial's run, whose variants are written: its id, parameters and tags, the launch's id, and its end.

    ``ended`` in milliseconds since 1970.
    """

    run_id: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    launch: str
    ended: int


class Variants:
    """The runs and models of all variants in an experiment."""

    def __init__(self, client: MlflowClient, experiment: str, models: Models) -> None:
        """Ask nothing yet."""
        self._client, self._experiment, self._models = client, experiment, models

    def of(self, run_id: str) -> Iterator[Run]:
        """The runs of the variants of a trial's run; whatever else somebody has nested there is theirs."""
        token = None
        while token != "":
            page = self._client.search_runs([self._experiment], f"tags.`{PARENT}` = '{run_id}'", page_token=token)
            yield from (run for run in page if VARIANT in run.data.tags)
            token = page.token or ""

    def models_of(self, run_id: str, variant: str) -> list[LoggedModel]:
        """The models of a variant of a trial's run."""
        runs = [run.info.run_id for run in self.of(run_id) if run.data.tags.get(VARIANT) == variant]
        return [model for run in runs for model in self._models.of(run)]

    def owner(self, model: LoggedModel) -> str | None:
        """The trial's run that a model belongs to; None if its own run is gone."""
        if VARIANT not in model.tags:
            return model.source_run_id
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(str(model.source_run_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # deleted for good, as by `mlflow gc`
                return None
            raise
        return run.data.tags.get(PARENT) if run.info.lifecycle_stage == "active" else None

    def write(self, trained: Trained, record: Record) -> None:
        """Make a trial's variants, each once; what is there in part is made again."""
        missing = list(record.variants)
        for run in list(self.of(trained.run_id)) if missing else ():
            if (variant := run.data.tags.get(VARIANT)) in missing and self._holds(run, record, variant):
                missing.remove(variant)
            else:
                self._remove(run)
        for variant in missing:
            self._make(trained, record, variant)

    def is_complete(self, run_id: str, record: Record) -> bool:
        """Whether all that :meth:`write` makes is there, once."""
        if not record.variants:
            return True
        runs = list(self.of(run_id))
        named = sorted(str(run.data.tags.get(VARIANT)) for run in runs)
        return named == sorted(record.variants) and all(
            self._holds(run, record, run.data.tags[VARIANT]) for run in runs
        )

    def delete(self, run_id: str) -> None:
        """Delete what belongs to a trial's run."""
        for run in list(self.of(run_id)):
            self._remove(run)

    def _remove(self, run: Run) -> None:
        self._models.delete(run.info.run_id)
        self._client.delete_run(run.info.run_id)

    def _holds(self, run: Run, record: Record, variant: str) -> bool:
        wanted = record.scores_of(variant)
        return (
            run.info.status == "FINISHED"
            and all(agrees(run.data.metrics.get(name), value) for name, value in wanted.items())
            and self._models.is_complete(run.info.run_id, wanted, data_set_of(record))
        )

    def _make(self, trained: Trained, record: Record, variant: str) -> None:
        name, on = f"{record.trial} {variant}", data_set_of(record)
        told = {
            **trained.tags,
            VARIANT: variant,
            "row": f"{row_label(record.method, record.row)} {variant}",
            NOTE: trial_note(record, variant),
        }
        tags = {**told, **user_tags(), STATUS: "running", PARENT: trained.run_id}
        run = self._client.create_run(self._experiment, start_time=trained.ended, tags=tags, run_name=name)
        own, step = str(run.info.run_id), record.measured_step
        model = self._models.make(own, name, trained.parameters, {**told, LAUNCH: trained.launch})
        points: list[Measured] = [
            (score, rounded(value), trained.ended, step, model, *on[score])
            for score, value in record.scores_of(variant).items()
        ]
        write(self._client, own, trained.parameters, points, {STATUS: record.status})
        if inputs := as_inputs(data_sets(record)):
            self._client.log_inputs(own, inputs)
        self._models.put_out(own, [model], step)
        self._models.ready(model)
        self._client.set_terminated(own, "FINISHED", end_time=trained.ended)
