"""Two hosts with a cluster on them, started by the very `deploy/on-premise.yaml` that people use."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.test_folders import classes

from .hosts import HOME, PROJECT, ROOT, USER, Hosts, missing

VOLATILE = {"train_seconds", "eval_seconds", "images_per_second", "provenance"}

PLAIN = ("--log-style", "pretty", "--log-color", "false")
"""Into a file Ray writes every ssh command in full, and colours."""

Records = Mapping[str, Mapping[str, Any]]


def say(text: str) -> None:
    """Show what happens: the transcript of this run is what it is made for."""
    print(text, flush=True)


class Cluster:
    """The cluster, as its operator sees it.

    Args:
        hosts: the first is the head.
        file: what `ray up` is given.
        pictures: a folder of images that all hosts see at the same path.
    """

    def __init__(self, hosts: Hosts, file: Path, pictures: Path) -> None:
        self.hosts = hosts
        self.file = file
        self.head, self.worker = hosts.names
        self._pictures = pictures

    def run(self, *command: str, code: int | None = 0) -> str:
        """Run a command of the operator's; returns what it printed, and insists on its exit code."""
        began = time.monotonic()
        say(f"\n$ {' '.join(command)}")
        done = self.hosts.operate(command)
        say(f"{done.stdout.rstrip()}\n[exit code {done.returncode}, {time.monotonic() - began:.0f} s]")
        assert code is None or done.returncode == code, done.stdout
        return done.stdout

    def up(self) -> str:
        """`ray up`, again or for the first time."""
        return self.run("ray", "up", "-y", *PLAIN, str(self.file))

    def on_head(self, command: str, *, code: int | None = 0) -> str:
        """`ray exec`: what one types in `ray attach`."""
        return self.run("ray", "exec", *PLAIN, str(self.file), command, code=code)

    def nodes(self) -> set[str]:
        """The addresses of the nodes that are alive, for Ray."""
        code = "import ray; ray.init('auto', logging_level='error', log_to_driver=False); "
        code += "print('NODES', *[node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']])"
        shell = f". ~/.bench_environment; python -c {json.dumps(code)}"
        said = self.hosts.ssh(self.head, shell).stdout
        (line,) = [line for line in said.splitlines() if line.startswith("NODES")] or ["NODES"]
        return set(line.split()[1:])

    def wait_for_nodes(self, names: set[str], *, seconds: float = 300) -> float:
        """Wait until exactly these hosts are nodes; returns how long that took, in seconds."""
        wanted = {self.hosts.addresses[name] for name in names}
        began = time.monotonic()
        while (there := self.nodes()) != wanted:
            assert time.monotonic() - began < seconds, f"nodes are {sorted(there)}, not {sorted(wanted)}"
            time.sleep(1)
        took = time.monotonic() - began
        say(f"# nodes {sorted(wanted)} after {took:.0f} s")
        return took

    def study(self, results: Path | str, *more: str) -> list[str]:
        """A small study as a command line: two searches, two confirmations."""
        name = f"folder:{self._pictures}"
        command = ["python", "launch.py", "--study", "block_expansion", "--trials", "2", "--seeds", "0"]
        command += ["--source", name, "--target", name, "--source-per-class", "8", "--results", str(results)]
        command += ["--set", "search.p.choices=[1,2]", "--set", "train.steps=3", "--set", "train.batch_size=8"]
        return [*command, *more]

    def records(self, results: Path | str) -> Records:
        """What a study on the head has left, by trial."""
        return read_records(self.hosts.folder / self.head / Path(str(results)).relative_to("/"))


JOIN = ("--address", "auto", "--tracking-uri", "http://127.0.0.1:5000")
"""Until a launch without flags does both by itself."""


def read_records(results: Path) -> Records:
    files = results.glob("block_expansion/*/records/*.json")
    return {file.stem: json.loads(file.read_text()) for file in files}


def stable(records: Records) -> dict[str, dict[str, Any]]:
    """Records without what may differ between two runs of the same thing."""
    return {
        name: {key: value for key, value in record.items() if key not in VOLATILE} for name, record in records.items()
    }


def hosts_of(records: Records) -> set[str]:
    return {record["provenance"]["host"] for record in records.values()}


def derived(hosts: Hosts, into: Path) -> Path:
    """deploy/on-premise.yaml with its EDIT lines edited, and with one core a host, so that a slot fills it."""
    text = (ROOT / "deploy/on-premise.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    head, *workers = hosts.addresses.values()
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": USER, "ssh_private_key": str(hosts.key)}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        one_core = "ray start --num-cpus=1 --object-store-memory=300000000 "
        config[commands] = [command.replace("ray start ", one_core) for command in config[commands]]
    into.write_text(yaml.safe_dump(config, sort_keys=False, width=1000))
    return into


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two hosts, on which `ray up` has been run."""
    if lacking := missing():
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp("hosts")
    hosts = Hosts(folder)
    try:
        hosts.up()
        pictures = classes(folder / "pictures", names=("cat", "dog", "emu"))
        started = Cluster(hosts, derived(hosts, folder / "on-premise.yaml"), pictures)
        started.run("bash", "-c", "umask 077 && ray get-auth-token --generate > /dev/null")
        started.up()
        started.wait_for_nodes(set(hosts.names))
        yield started
        started.run("ray", "down", "-y", *PLAIN, str(started.file))
    finally:
        hosts.down()


@pytest.fixture(scope="session")
def alone(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The same study on a single machine: this one."""
    results = tmp_path_factory.mktemp("alone")
    cluster.run(*cluster.study(results, "--slots", "2"))
    return read_records(results)


@pytest.fixture(scope="session")
def alone_in_pairs(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The same study on a single machine, each trial by two processes."""
    results = tmp_path_factory.mktemp("alone")
    cluster.run(*cluster.study(results, "--num-workers", "2", "--slots", "1"))
    return read_records(results)


__all__ = ["HOME", "JOIN", "PROJECT", "Cluster", "Records", "hosts_of", "read_records", "say", "stable"]
