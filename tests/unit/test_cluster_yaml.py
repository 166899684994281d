"""cluster.yaml and deploy/on-premise.yaml are what `ray up` would accept, and say what the project needs them to say.

Nothing here talks to a cloud or a host: the defaults are filled in and the result is validated by the very
functions that `ray up` calls before its first request. `make test-cluster` runs the second one for real.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import records

ROOT = Path(__file__).resolve().parents[2]
AWS, ON_PREMISE = "cluster.yaml", "deploy/on-premise.yaml"
TOKEN = "~/.ray/auth_token"
both = pytest.mark.parametrize("name", [AWS, ON_PREMISE])
Config = dict[str, Any]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def uncommented(name: str) -> str:
    """The file with all that is ready to uncomment: indented comments that are YAML, not prose."""
    ready = re.compile(r"^( +)# (- \S.*|  \S.*|[A-Z]\w+: \{.*)$", re.MULTILINE)
    return ready.sub(r"\1\2", re.sub(r"^ +#   (?:aws|/aws) .*$|^ +#     /aws.*$", "", text(name), flags=re.MULTILINE))


def load(name: str) -> Config:
    loaded: Config = yaml.safe_load(text(name))
    return loaded


def validated(config: Config) -> Config:
    """`config` as `ray up` completes it; raises where `ray up` would refuse."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    complete: Config = prepare_config(copy.deepcopy(config))
    validate_config(complete)
    return complete


def all_commands(config: Config) -> list[str]:
    return [command for key, value in config.items() if key.endswith("_commands") for command in value]


def starts(config: Config) -> list[str]:
    found = [[c for c in config[f"{who}_start_ray_commands"] if "ray start" in c] for who in ("head", "worker")]
    assert [len(one) for one in found] == [1, 1]
    return [one[0] for one in found]


@both
def test_ray_accepts_it(name: str) -> None:
    complete = validated(load(name))
    assert any("make setup" in command for command in complete["head_setup_commands"])
    assert any("make setup" in command for command in complete["worker_setup_commands"])


@both
@pytest.mark.parametrize(
    "change",
    [
        {"idle_minutes": 5},
        {"max_workers": "eight"},
        {"auth": {"user": "ubuntu"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_ray_refuses_what_is_wrong(name: str, change: Config) -> None:
    with pytest.raises(Exception):  # noqa: B017 - Ray raises jsonschema's errors, and ValueError
        validated(load(name) | change)


def test_ray_refuses_a_head_of_no_type() -> None:
    with pytest.raises(ValueError, match="head_node_type"):
        validated(load(AWS) | {"head_node_type": "nobody"})


@both
def test_what_is_ready_to_uncomment_is_right(name: str) -> None:
    ready = yaml.safe_load(uncommented(name))
    before, after = all_commands(load(name)), all_commands(ready)
    assert len(after) > len(before)
    assert any("~/bench" in command for command in after if command not in before)
    complete = validated(ready)
    if name == AWS:
        added = "\n".join(command for command in after if command not in before)
        assert "efs." in added
        assert "s3" in added
        assert all(
            "IamInstanceProfile" in node["node_config"]
            for node in complete["available_node_types"].values()
            if node["node_config"]["InstanceType"] != "g5.12xlarge"
        )


@both
def test_every_command_is_bash(name: str) -> None:
    for command in all_commands(yaml.safe_load(uncommented(name))):
        assert isinstance(command, str)
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@both
def test_what_is_mounted_exists_and_is_all_that_setup_needs(name: str) -> None:
    config = load(name)
    local = {remote: Path(source) for remote, source in config["file_mounts"].items() if remote != TOKEN}
    assert all(not source.is_absolute() and (ROOT / source).exists() for source in local.values())
    assert {str(source) for source in local.values()} >= {
        ".git",
        "LICENSE",
        "Makefile",
        "bench",
        "constraints.txt",
        "launch.py",
        "pyproject.toml",
        "search_spaces",
    }
    assert all(remote.startswith("~/vit-forgetting-bench/") for remote in local)


@both
def test_what_is_mounted_knows_its_commit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a checkout the nodes get a part, and not git's configuration, which may hold a login."""
    config, here, there = load(name), tmp_path / "here", tmp_path / "there"
    assert "/config" in config["rsync_exclude"]
    parts = [Path(part) for part in config["file_mounts"].values() if part not in (".git", TOKEN)]
    for part in (*parts, Path("docs")):
        file = here / part / "a" if (ROOT / part).is_dir() else here / part
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (here / "bench" / "records.py").touch()
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "a"]):
        subprocess.run(["git", *command], cwd=here, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, check=True, capture_output=True, text=True).stdout
    shutil.copytree(here, there, ignore=shutil.ignore_patterns("docs", "config"))
    monkeypatch.setattr(records, "__file__", str(there / "bench" / "records.py"))
    for dirty in (False, True):
        records.commit.cache_clear()
        assert records.commit() == {"commit": head.strip(), "dirty": dirty}
        (there / "launch.py").write_text("changed")
    records.commit.cache_clear()


@both
def test_every_node_shares_the_token(name: str) -> None:
    config = load(name)
    assert config["file_mounts"][TOKEN] == TOKEN
    for start in starts(config):
        assert "RAY_AUTH_MODE=token" in start
        assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in start
        assert "BENCH_DATA=~/bench/data HF_HOME=~/bench/data/huggingface" in start
    assert any("export RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert "umask 077 && ray get-auth-token --generate" in text(name)


@both
def test_only_the_head_names_a_cluster_and_a_store(name: str) -> None:
    config = load(name)
    uri = "MLFLOW_TRACKING_URI=http://127.0.0.1:5000"
    (exported,) = [command for command in config["head_setup_commands"] if uri in command]
    assert "RAY_ADDRESS=auto" in exported
    head, worker = starts(config)
    assert uri in head  # jobs inherit it
    for command in (worker, *config["setup_commands"], *config["worker_setup_commands"]):
        assert "MLFLOW_TRACKING_URI" not in command
        assert "RAY_ADDRESS" not in command


@both
def test_data_have_one_place_on_every_node(name: str) -> None:
    config = load(name)
    place = "BENCH_DATA=~/bench/data"
    assert sum(place in command for command in config["setup_commands"]) == 1
    assert all(place in start for start in starts(config))


@both
def test_the_head_serves_its_pages_to_itself_only(name: str) -> None:
    config = load(name)
    (server,) = [command for command in config["head_start_ray_commands"] if "mlflow server" in command]
    assert "--host 127.0.0.1" in server
    assert '--backend-store-uri "sqlite:///$HOME/bench/mlflow/' in server
    assert '--serve-artifacts --artifacts-destination "$HOME/bench/mlflow/' in server
    head, worker = starts(config)
    assert "--dashboard-host=127.0.0.1" in head
    assert "dashboard" not in worker


@both
def test_it_knows_no_machine(name: str) -> None:
    for_documentation = r"192\.0\.2\."  # RFC 5737
    address = rf"\b(?!127\.0\.0\.1|{for_documentation})\d{{1,3}}(\.\d{{1,3}}){{3}}\b"
    assert not re.search(rf"/home/|/root/|/Users/|{address}", text(name))


def test_two_lines_are_to_be_edited() -> None:
    assert len(re.findall(r"# EDIT\b", text(AWS))) == 2
    for node in load(AWS)["available_node_types"].values():
        assert node["node_config"]["ImageId"] == "ami-00000000000000000"
        assert node["node_config"]["SecurityGroupIds"] == ["sg-00000000000000000"]


def test_the_head_drives_and_gpu_workers_scale_from_none() -> None:
    config = load(AWS)
    node_types = config["available_node_types"]
    head = node_types.pop(config["head_node_type"])
    assert "GPU" not in head["resources"]
    for worker in node_types.values():
        assert worker["resources"]["GPU"] >= 1
        assert worker["min_workers"] == 0
        assert 1 <= worker["max_workers"] <= config["max_workers"]
    assert max(worker["resources"]["GPU"] for worker in node_types.values()) > 1
    spot = {name for name, worker in node_types.items() if "InstanceMarketOptions" in worker["node_config"]}
    assert spot == {"gpu_spot"}
    assert len({worker["priority"] for worker in node_types.values()}) == len(node_types)


def test_ray_takes_what_fits_best_and_on_demand_before_spot() -> None:
    one = {"CPU": 1, "GPU": 1}
    assert started_for([one] * 3) == {"gpu": 3}
    only_large = {"gpu": 0, "gpu_spot": 0}
    assert started_for([one] * 8, **only_large) == {"four_gpus": 2}
    assert started_for([one] * 2, gpu=1) == {"gpu": 1, "gpu_spot": 1}


def started_for(bundles: list[dict[str, float]], **max_workers: int) -> dict[str, int]:
    """What Ray's autoscaler starts for some waiting bundles on a cluster that has its head only."""
    from ray.autoscaler.v2 import scheduler
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = validated(load(AWS)) | {"file_mounts": {}}  # which would be read, and there may be no token here
    for name, most in max_workers.items():
        config["available_node_types"][name]["max_workers"] = most
    configured = AutoscalingConfig(config)
    reply = scheduler.ResourceDemandScheduler(event_logger=None).schedule(
        scheduler.SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=configured.get_node_type_configs(),
            max_num_nodes=configured.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(one) for one in bundles]),
        )
    )
    return {one.instance_type: one.count for one in reply.to_launch if one.instance_type != "head"}


def test_results_and_store_outlive_the_head() -> None:
    for name, node in load(AWS)["available_node_types"].items():
        (disk,) = node["node_config"]["BlockDeviceMappings"]
        assert disk["Ebs"]["DeleteOnTermination"] is (name != "head"), name
    for name in (AWS, ON_PREMISE):
        assert any("ln -s ~/bench/results results" in command for command in load(name)["setup_commands"])


def test_aws_knows_every_parameter_of_its_nodes() -> None:
    """Against botocore's own description of the request, where the extra `cluster` is installed."""
    session = pytest.importorskip("botocore.session", reason="make setup EXTRAS=dev,cluster brings botocore")
    from botocore.validate import ParamValidator

    shape = session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in yaml.safe_load(uncommented(AWS))["available_node_types"].values():
        request = node["node_config"] | {"MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(request, shape).has_errors(), request
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, "IamProfile": {}}, shape)
    assert report.has_errors()


def test_hosts_are_driven_by_the_autoscaler_that_knows_them() -> None:
    head, worker = starts(load(ON_PREMISE))
    assert "RAY_enable_autoscaler_v2=0" in head
    assert "autoscaler" not in worker
    assert "systemd" not in "".join(all_commands(load(ON_PREMISE)))


def test_the_provider_of_hosts_takes_no_node_types() -> None:
    complete = validated(load(ON_PREMISE))
    (only,) = complete["available_node_types"].values()
    assert only["min_workers"] == only["max_workers"] == len(complete["provider"]["worker_ips"])
