"""cluster.yaml is what `ray up` would accept, and says what the project needs it to say.

Nothing here talks to a cloud: the defaults are filled in and the result is validated by the very
functions that `ray up` calls before its first request.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
TOKEN = "~/.ray/auth_token"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TEXT)
    return loaded


def validated(config: dict[str, Any]) -> dict[str, Any]:
    """`config` as `ray up` completes it; raises where `ray up` would refuse."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    complete: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(complete)
    return complete


def all_commands(config: dict[str, Any]) -> dict[str, list[str]]:
    return {key: value for key, value in config.items() if key.endswith("_commands")}


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    complete = validated(config)
    assert any("make setup" in command for command in complete["head_setup_commands"])
    assert any("make setup" in command for command in complete["worker_setup_commands"])


@pytest.mark.parametrize(
    "change",
    [
        {"idle_minutes": 5},
        {"max_workers": "eight"},
        {"head_node_type": "nobody"},
        {"auth": {"user": "ubuntu"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_ray_refuses_what_is_wrong(config: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(Exception):  # noqa: B017 - Ray raises jsonschema's errors, and ValueError
        validated(config | change)


def test_the_head_drives_and_gpu_workers_scale_from_none(config: dict[str, Any]) -> None:
    node_types = config["available_node_types"]
    head = node_types.pop(config["head_node_type"])
    assert "GPU" not in head["resources"]
    assert node_types
    for worker in node_types.values():
        assert worker["resources"]["GPU"] >= 1
        assert worker["min_workers"] == 0
        assert 1 <= worker["max_workers"] <= config["max_workers"]
        assert worker["node_config"]["ImageId"] == head["node_config"]["ImageId"]


def test_what_is_mounted_exists_and_is_all_that_setup_needs(config: dict[str, Any]) -> None:
    local = {remote: Path(source) for remote, source in config["file_mounts"].items() if remote != TOKEN}
    assert all(not source.is_absolute() and (ROOT / source).exists() for source in local.values())
    assert {str(source) for source in local.values()} >= {
        "LICENSE",
        "Makefile",
        "bench",
        "constraints.txt",
        "launch.py",
        "pyproject.toml",
        "search_spaces",
    }
    assert all(remote.startswith("~/vit-forgetting-bench/") for remote in local)


def test_every_node_shares_the_token(config: dict[str, Any]) -> None:
    assert config["file_mounts"][TOKEN] == TOKEN
    for where in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config[where] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token" in starts[0]
        assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in starts[0]


def test_the_head_serves_mlflow_to_itself_only(config: dict[str, Any]) -> None:
    (server,) = [command for command in config["head_start_ray_commands"] if "mlflow server" in command]
    assert "--host 127.0.0.1" in server
    assert '--backend-store-uri "sqlite:///$HOME/' in server
    assert "--serve-artifacts --artifacts-destination" in server


def test_it_knows_no_machine(config: dict[str, Any]) -> None:
    assert all_commands(config)
    assert not re.search(r"/home/|/root/|/Users/|\b(?!127\.0\.0\.1)\d{1,3}(\.\d{1,3}){3}\b", TEXT)
