"""Numbers, parameters and tags as they are written to an MLflow run: in few requests, and rounded for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.readings import FLAT

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 1000
BATCH_PARAMETERS = 100
"""MLflow takes no more in one request: points, parameters and tags together, and parameters alone."""

DECIMALS = 4
"""Of percentages and costs, since MLflow's lists show all digits of a number; records hold the rest.

One image of a million still counts.
"""

Point = tuple[str, float, int, int]
"""Of a curve: name, value, time in milliseconds since 1970, step."""

Measured = tuple[str, float, int, int, str | None, str | None, str | None]
"""A point with the model that it is of, and the name and the digest of the data set that it was measured on."""


def rounded(value: float) -> float:
    """A percentage or a cost as MLflow gets it."""
    return round(float(value), DECIMALS)


def shown(name: str, value: float) -> float:
    """A number of a curve as MLflow gets it: scores rounded, a loss or a learning rate as it is."""
    return rounded(value) if name in FLAT else float(value)


def agrees(there: float | None, value: float) -> bool:
    """Whether a number in MLflow is one that was written, be it by a version that did not round."""
    return there is not None and rounded(there) == rounded(value)


def write(
    client: MlflowClient,
    run_id: str,
    parameters: Mapping[str, str],
    points: Sequence[Point | Measured] = (),
    tags: Mapping[str, str] = {},
) -> None:
    """Add parameters, points and tags to a run."""
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(name, value) for name, value in parameters.items()]
    # The newest first: MLflow also keeps the last point of each curve, and would replace it by each that follows.
    metrics = [Metric(*point) for point in reversed(points)]
    left = [RunTag(name, value) for name, value in tags.items()]
    while params or metrics or left:
        some, params = params[:BATCH_PARAMETERS], params[BATCH_PARAMETERS:]
        room = BATCH - len(some) - len(left)
        client.log_batch(run_id, metrics=metrics[:room], params=some, tags=left)
        metrics, left = metrics[room:], []
