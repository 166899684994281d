"""A cluster that grows from nothing and loses a node, with Ray's own autoscaler; its nodes are processes here."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bench.folder import LaunchFolder

from .conftest import FEW, ROOT, SECONDS, Start, begin_with

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKERS = 2
HEAD = "ray.head.default"  # so the provider calls it
SMALL = ["--study", "linear", "--trials", "4", "--seeds", "0", "--set", "train.steps=60", *FEW]
SMALL += ["--set", "train.share_frozen=false"]  # or a trial takes a moment, and nothing is left when a node is lost


class Cluster:
    """A head without a core, and a real autoscaler that may bring workers of one core each."""

    def __init__(self, start: Start, folder: Path) -> None:
        with socket.socket() as free:  # outside the ports that Ray gives its workers
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        file = folder / "cluster.yaml"
        file.write_text(yaml.safe_dump(config(self.address)))
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
        plain = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "0", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        plain["RAY_health_check_period_ms"] = "1000"  # five of them find that a node is gone; it has 10 s for each
        # As a Ray job has it. What a launch sends is unpacked anew by every node's agent: here all into one folder,
        # even while others import from it.
        job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"working_dir": f"local://{ROOT}"}})}
        own = {**token, **plain, **job, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "TMPDIR": str(folder)}
        self.environment = {**os.environ, **own}
        port = self.address.partition(":")[2]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=0", "--num-gpus=0", "--object-store-memory=200000000"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--include-dashboard=false", "--disable-usage-stats"]
        command += [f"--temp-dir={folder}", f"--autoscaling-config={file}"]
        self.head = start(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while not listens(int(port)):
            assert time.monotonic() < end
            time.sleep(0.2)

    @property
    def nodes(self) -> list[psutil.Process]:
        """The raylets of the workers' nodes, which the autoscaler has started; that of the head is the head's own."""
        family = psutil.Process(self.head.pid).children(recursive=True)
        return [process for process in family if _runs_a_node(process) and process.ppid() != self.head.pid]

    def lose_the_node_of(self, worker: int) -> None:
        """Kill all processes of the node that one belongs to, as if its machine were gone."""
        families = [[node, *node.children(recursive=True)] for node in self.nodes]
        (family,) = (family for family in families if worker in {process.pid for process in family})
        for process in family:
            with suppress(psutil.NoSuchProcess):  # it has ended with the others
                process.kill()

    def wait_for(self, count: int) -> None:
        """Wait until there are so many workers."""
        end = time.monotonic() + SECONDS
        while len(self.nodes) != count:
            assert time.monotonic() < end
            time.sleep(0.5)


def listens(port: int) -> bool:
    """Whether the head answers."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _runs_a_node(process: psutil.Process) -> bool:
    try:
        return bool(process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def config(address: str) -> dict[str, Any]:
    """What the autoscaler goes by: Ray's provider whose nodes are processes."""
    lists = ["initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands"]
    lists += ["head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"]
    lists += ["rsync_exclude", "rsync_filter"]
    flags = {"use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True}
    kinds = {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": WORKERS},
    }
    return {
        "cluster_name": "small",
        "max_workers": WORKERS,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "provider": {"type": "fake_multinode", "gcs_address": address, **flags},
        "available_node_types": kinds,
        "head_node_type": HEAD,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists},
    }


@pytest.fixture
def cluster(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield Cluster(start, Path(tmp_path_factory.mktemp("c", numbered=True)))


def test_a_study_asks_for_nodes_and_outlives_one_of_them(
    cluster: Cluster, start: Start, store: Path, tmp_path: Path
) -> None:
    begin_with(store, tmp_path)
    told = {**cluster.environment, "RAY_ADDRESS": cluster.address}
    command = [sys.executable, "launch.py", *SMALL, "--results", str(tmp_path)]
    launch = start(command, env=told)
    folder = LaunchFolder(tmp_path / "linear" / "tiny")
    cluster.wait_for(WORKERS)  # none of which was there when the study began
    end = time.monotonic() + SECONDS
    while len(list(folder.records.glob("*.json"))) < 2:
        assert launch.poll() is None, launch.communicate()
        assert time.monotonic() < end
        time.sleep(0.2)
    cluster.lose_the_node_of(folder.read_records()[0].provenance["pid"])
    assert len(folder.read_records()) < 5  # or nothing would be left to be lost
    out, err = launch.communicate(timeout=SECONDS)
    assert launch.returncode == 0, (out, err)
    assert f"Runs on the Ray cluster at {cluster.address} (RAY_ADDRESS" in out
    # The first node may be there before the last slot has looked for one.
    assert re.search(rf"waiting for nodes: [0-{WORKERS - 1}] of {WORKERS} slots", out), out
    records = folder.read_records()
    assert {record.status for record in records} == {"ok"}
    assert len(records) == 5
    cluster.wait_for(0)
