"""Trained models in MLflow: fetched from a trial's run, and registered."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records
from bench.folder import LaunchFolder
from bench.records import Record
from bench.reporting.mlflow_address import database_file, without_password
from bench.reporting.mlflow_content import PARENT
from bench.reporting.mlflow_logged import outputs
from bench.reporting.mlflow_store import CHECKPOINTS, RECORD, check, experiment_id, open_store
from bench.reporting.mlflow_variants import VARIANT
from bench.spec import row_label, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def fetch(uri: str, run_id: str, folder: LaunchFolder) -> Path:
    """Copy a trial's record, and its trained tensors if it kept them, from its run into a results folder.

    Args:
        uri: of the store.
        run_id: of the trial's run, a child of its launch's.
        folder: to write to, like a launch's.

    Returns:
        The record's file.

    Raises:
        ValueError: there is no such store or run, it is no trial's, or it holds something else.
    """
    check(uri)
    file = database_file(uri)
    if file is not None and not file.is_file():
        raise ValueError(f"there is no MLflow store {without_password(uri)}; name the run's store with --tracking-uri")
    client = open_store(uri)
    from mlflow.exceptions import MlflowException

    try:
        held = {artifact.path for artifact in client.list_artifacts(run_id)}
    except MlflowException:
        raise ValueError(f"there is no run {run_id} in {without_password(uri)}") from None
    if RECORD not in held:
        tags = client.get_run(run_id).data.tags
        if VARIANT in tags:
            made = f"run {run_id} is that of a model that was made of another one"
            raise ValueError(f"{made}: name the run of its trial, {tags.get(PARENT)}")
        raise ValueError(
            f"run {run_id} holds no record: name the run of a trial that has ended, a child of its launch's"
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.path) as place:
        record = records.read(Path(client.download_artifacts(run_id, RECORD, place)))
        tensors = f"{CHECKPOINTS}/{folder.checkpoint(record.trial).name}"
        kept = {artifact.path for artifact in client.list_artifacts(run_id, CHECKPOINTS)}
        if strange := kept - {tensors}:
            raise ValueError(f"run {run_id} holds tensors that are not those of its record: {shown(min(strange))}")
        for name in kept:
            folder.keep_tensors(record.trial, Path(client.download_artifacts(run_id, name, place)).read_bytes())
    return record.write(folder.records)


CHAMPION = "champion"
"""The alias of a model that belongs to the best row of its launch."""

RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
"""MLflow takes these for no alias."""

LONGEST_ALIAS = 255


def aliases(record: Record, *, best: bool) -> list[str]:
    """What a registered model is called beside its version: after its row, and champion if that is the best one.

    Args:
        best: whether its row has the best MEAN of its launch.
    """
    row = re.sub(r"[^\w-]+", "-", row_label(record.method, record.row).replace("=", "")).strip("-")
    named = f"row-{row}" if RESERVED.fullmatch(row) else row
    return [named[:LONGEST_ALIAS], *([CHAMPION] if best else [])]


def is_best_in_folder(folder: LaunchFolder, trial: str) -> bool:
    """Whether a trial belongs to the best row of the launch in a folder; not if that has no leaderboard.

    Nor if the best row is about what a method has made of its trained models.
    """
    if not folder.table_json.is_file():
        return False
    rows = json.loads(folder.table_json.read_text(encoding="utf-8"))["rows"]
    return any(row["best"] and row["variant"] is None and trial in row["trials"] for row in rows)


def is_best_run(uri: str, run_id: str) -> bool:
    """Whether a trial's run belongs to the best row of its launch: the launch's run then shows its model."""
    client = open_store(uri)
    parent = client.get_run(run_id).data.tags.get(PARENT)
    if parent is None:
        return False
    own, shown_by_parent = ({one.model_id for one in outputs(client, run)} for run in (run_id, parent))
    return bool(own & shown_by_parent)


@dataclass(frozen=True)
class Registration:
    """A model for MLflow's registry.

    ``model`` maps normalised images ``[b, 3, h, w]`` to logits ``[b, classes]``, in evaluation mode; ``example`` holds
    at least two images, since with one the graph would take one at a time only; ``facts`` are what is to be known of it
    besides, such as class names; ``requirements`` are pip's, to run it; ``aliases`` are those of the version that it
    becomes, see :func:`aliases`.
    """

    model: Any
    example: NDArray[np.float32]
    classes: int
    facts: Mapping[str, Any]
    requirements: Sequence[str]
    aliases: Sequence[str] = ()


def register(uri: str, name: str, wanted: Registration, *, experiment: str, run_name: str) -> Sequence[str]:
    """Register a model in MLflow as a traced graph, which needs neither this package nor unpickling to be loaded.

    Args:
        uri: of the store.
        name: of the registered model; it gets a new version if it exists.

    Returns:
        Python lines that load it with MLflow alone.

    Raises:
        ValueError: the name or the store cannot be used.
    """
    if not name or set(name) & set("/:") or not name.isprintable():
        raise ValueError(f"--mlflow-model {name!r} cannot be a name of a registered model: leave out '/' and ':'")
    check(uri)
    client = open_store(uri)
    import mlflow

    mlflow.set_tracking_uri(client.tracking_uri)  # a login in it stands apart
    place = experiment_id(client, uri, experiment)
    with mlflow.start_run(experiment_id=place, run_name=run_name):
        info = mlflow.pytorch.log_model(
            wanted.model,
            name="model",
            signature=_signature(wanted.example, wanted.classes),
            input_example=wanted.example,
            registered_model_name=name,
            serialization_format="pt2",
            pip_requirements=list(wanted.requirements),
            metadata=dict(wanted.facts),
        )
    for alias in wanted.aliases:
        client.set_registered_model_alias(name, alias, str(info.registered_model_version))
    return [
        "import mlflow",
        f"mlflow.set_tracking_uri({without_password(uri)!r})",
        f"model = mlflow.pytorch.load_model('models:/{name}/{info.registered_model_version}')",
    ]


def _signature(example: NDArray[np.float32], classes: int) -> Any:
    """Any number of images in, their logits out."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    inputs = TensorSpec(example.dtype, (-1, *example.shape[1:]))
    return ModelSignature(Schema([inputs]), Schema([TensorSpec(example.dtype, (-1, classes))]))
