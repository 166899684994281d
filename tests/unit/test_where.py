"""Where a launch runs and logs: flags first, then what Ray's and MLflow's own commands heed, and it is said."""

from __future__ import annotations

import pytest

from bench.launching.where import resolved
from bench.spec import LaunchOptions, SpecError


@pytest.mark.parametrize(
    ("asked", "environment", "address", "said"),
    [
        (None, {}, None, ""),
        (None, {"RAY_ADDRESS": "auto"}, "auto", "Runs on the Ray cluster at auto (RAY_ADDRESS; --address local"),
        (None, {"RAY_ADDRESS": " 10.0.0.1:6379 "}, "10.0.0.1:6379", "Runs on the Ray cluster at 10.0.0.1:6379 (RAY_"),
        (None, {"RAY_ADDRESS": "local"}, None, ""),
        (None, {"RAY_ADDRESS": ""}, None, ""),
        ("local", {"RAY_ADDRESS": "auto"}, None, ""),
        ("local", {}, None, ""),
        ("10.0.0.1:6379", {"RAY_ADDRESS": "auto"}, "10.0.0.1:6379", "10.0.0.1:6379 (--address)"),
        (None, {"RAY_ADDRESS": "http://127.0.0.1:8265"}, None, "is where jobs are submitted, not a cluster to join"),
    ],
)
def test_the_flag_counts_before_the_environment(
    asked: str | None, environment: dict[str, str], address: str | None, said: str
) -> None:
    options, words = resolved(LaunchOptions(address=asked), environment)
    assert options.address == address
    assert len(words) == bool(said)
    assert said in "".join(words)


@pytest.mark.parametrize(
    ("asked", "environment"),
    [(None, {"RAY_ADDRESS": "ray://10.0.0.1:10001"}), ("ray://10.0.0.1:10001", {}), ("http://10.0.0.1:8265", {})],
)
def test_what_a_launch_cannot_run_through_is_refused(asked: str | None, environment: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=r"ray job submit|where jobs are submitted"):
        resolved(LaunchOptions(address=asked), environment)


def test_mlflows_own_variable_is_heeded() -> None:
    told = {"MLFLOW_TRACKING_URI": "http://me:secret@127.0.0.1:5000"}
    options, said = resolved(LaunchOptions(), told)
    assert options.tracking_uri == told["MLFLOW_TRACKING_URI"]
    assert "secret" not in said[0]
    assert said[0].startswith("Logs to MLflow at http://")
    assert resolved(LaunchOptions(tracking_uri="sqlite:///own.db"), told) == (
        LaunchOptions(tracking_uri="sqlite:///own.db"),
        [],
    )
