"""Two hosts with a cluster on them, started by the very `deploy/on-premise.yaml` that people use."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from .hosts import ROOT, USER, Hosts, missing

VOLATILE = {"train_seconds", "eval_seconds", "images_per_second", "provenance"}

PLAIN = ("--log-style", "pretty", "--log-color", "false")
"""Into a file Ray writes every ssh command in full, and colours."""

SSH_NOISE = re.compile(r"\x1b\[[0-9;]*m|^Shared connection to .* closed\.\r?\n|\r", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What a study has left: records by trial, and the digest of every trained model's file."""

    records: Mapping[str, Mapping[str, Any]]
    checkpoints: Mapping[str, str]

    @classmethod
    def read(cls, results: Path) -> Outcome:
        folder = results / "block_expansion" / "tiny"
        return cls(
            {file.stem: json.loads(file.read_text()) for file in folder.glob("records/*.json")},
            {file.stem: sha256(file.read_bytes()).hexdigest() for file in folder.glob("checkpoints/*.safetensors")},
        )

    @property
    def stable(self) -> dict[str, Any]:
        """Without what may differ between two runs of the same thing."""
        records = {
            name: {key: value for key, value in record.items() if key not in VOLATILE}
            for name, record in self.records.items()
        }
        return {"records": records, "checkpoints": dict(self.checkpoints)}

    @property
    def hosts(self) -> set[str]:
        """Where trials ran."""
        return {record["provenance"]["host"] for record in self.records.values()}


def say(text: str) -> None:
    """Show what happens: the transcript of this run is what it is made for."""
    print(text, flush=True)


class Site:
    """Hosts, and their operator, who shows everything that is typed and printed.

    Args:
        hosts: the first is the head of whatever is started on them.
    """

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.head, self.worker = hosts.names

    def run(self, *command: str, code: int | None = 0) -> str:
        """Run a command of the operator's; returns what it printed, and insists on its exit code."""
        began = time.monotonic()
        say(f"\n$ {shlex.join(command)}")
        done = self.hosts.operate(command)
        said = SSH_NOISE.sub("", done.stdout)
        say(f"{said.rstrip()}\n[exit code {done.returncode}, {time.monotonic() - began:.0f} s]")
        assert code is None or done.returncode == code, said
        return said

    def study(self, results: Path | str, *more: str) -> list[str]:
        """A small study as a command line: long enough for a slot that starts late to get its share."""
        few = [f"source.{name}=10" for name in ("per_class", "queries", "confirm_per_class", "confirm_queries")]
        settings = ["search.p.choices=[1,2]", "train.steps=30", *few]
        command = ["python", "launch.py", "--study", "block_expansion", "--trials", "6", "--seeds", "0", "1"]
        command += ["--results", str(results), *(word for setting in settings for word in ("--set", setting))]
        return [*command, *more]

    def outcome(self, results: Path) -> Outcome:
        """What a study on the head has left in a folder there."""
        return Outcome.read(self.hosts.folder / self.head / results.relative_to("/"))


class Cluster(Site):
    """A site with a cluster on it.

    Args:
        site: where.
        file: what `ray up` is given.
    """

    def __init__(self, site: Site, file: Path) -> None:
        super().__init__(site.hosts)
        self.file = file

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
        said = self.hosts.ssh(self.head, f". ~/.bench_environment; python -c {shlex.quote(code)}").stdout
        (line,) = [line for line in said.splitlines() if line.startswith("NODES")] or ["NODES"]
        return set(line.split()[1:])

    def wait_for_nodes(self, names: set[str], *, seconds: float = 600) -> None:
        """Wait until exactly these hosts are nodes."""
        wanted = {self.hosts.addresses[name] for name in names}
        began = time.monotonic()
        while (there := self.nodes()) != wanted:
            assert time.monotonic() - began < seconds, f"nodes are {sorted(there)}, not {sorted(wanted)}"
            time.sleep(1)
        say(f"# nodes are {sorted(wanted)} after {time.monotonic() - began:.0f} s")


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
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two hosts, with nothing on them yet."""
    if lacking := missing():
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp("hosts")
    hosts = Hosts(folder)
    try:
        hosts.up()
        made = Site(hosts)
        made.run("bash", "-c", "umask 077 && ray get-auth-token --generate > /dev/null")
        yield made
    finally:
        hosts.down()


@pytest.fixture(scope="module")
def cluster(site: Site) -> Iterator[Cluster]:
    """The two hosts after `ray up`."""
    started = Cluster(site, derived(site.hosts, site.hosts.folder / "on-premise.yaml"))
    started.up()
    started.wait_for_nodes(set(site.hosts.names))
    yield started
    started.run("ray", "down", "-y", *PLAIN, str(started.file))


@pytest.fixture(scope="session")
def alone(site: Site) -> Outcome:
    """The same study on a single machine: this one."""
    return _alone(site, "alone", "--slots", "2")


@pytest.fixture(scope="session")
def alone_in_pairs(site: Site) -> Outcome:
    """The same study on a single machine, each trial by two processes."""
    return _alone(site, "alone-in-pairs", "--num-workers", "2", "--slots", "1")


def _alone(site: Site, name: str, *more: str) -> Outcome:
    results = site.hosts.folder / name
    store = f"sqlite:///{site.hosts.folder / 'mlflow.db'}"
    site.run(*site.study(results, "--tracking-uri", store, *more))
    return Outcome.read(results)
