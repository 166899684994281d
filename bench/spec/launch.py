"""Where a launch runs and writes; nothing of it changes a number."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from bench.spec.parsing import Frozen


class LaunchOptions(Frozen):
    """How and where a launch runs; what it computes is in the suite and the benchmark."""

    workers: Annotated[int, Field(ge=1, le=10_000, description="DDP processes of one trial")] = 1
    slots: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="trials at once; as many as there are GPUs, else cores, if empty"),
    ] = None
    gpus: Annotated[
        int | None,
        Field(
            ge=0,
            le=100_000,
            description="GPUs to plan on; 0 trains on cores; if empty all of this machine, or all that the cluster's "
            "autoscaler may bring",
        ),
    ] = None
    cpus: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="CPU cores to plan on; if empty all, as with gpus")
    ] = None
    wait_minutes: Annotated[
        float, Field(gt=0, le=100_000, description="on a cluster, how long to wait for the first node with room")
    ] = 30.0
    address: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Ray cluster to run on: auto or host:port; local: none; if empty $RAY_ADDRESS, or none",
        ),
    ] = None
    fresh: Annotated[bool, Field(description="start anew where an unfinished launch could be gone on with")] = False
    quiet: Annotated[bool, Field(description="print the answer alone, and on the way what has gone wrong")] = False
    json_lines: Annotated[bool, Field(description="print events for programs, one JSON object a line")] = False
    results: Annotated[str, Field(min_length=1, description="folder to write to")] = "results"
    tracking_uri: Annotated[
        str | None, Field(description="MLflow store; if empty $MLFLOW_TRACKING_URI, else SQLite in the results folder")
    ] = None
    optuna_storage: Annotated[
        str | None,
        Field(
            min_length=1,
            description="where Optuna's tools find the searches: a database's URL, or a journal file; optuna.db in the "
            "launch folder if empty",
        ),
    ] = None
    replay: Annotated[
        str | None,
        Field(
            min_length=1,
            description="recorded grid that answers search trials: nothing is trained, what is found is shown",
        ),
    ] = None

    @model_validator(mode="after")
    def _one_output(self) -> Self:
        if self.quiet and self.json_lines:
            raise ValueError("--quiet and --json contradict each other: give one of them")
        return self
