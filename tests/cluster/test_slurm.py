"""deploy/slurm.sh on two hosts, with stand-ins for Slurm's two commands: what it makes of Ray is real."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from .conftest import Outcome, Site
from .hosts import HOME, PROJECT, ROOT, USER

pytestmark = [pytest.mark.timeout(1800)]

SRUN = """\
#!/bin/bash
# Runs a command on all nodes, or on the one that is named, with the environment of the caller, as Slurm's does.
nodes="{nodes}"
while [[ $1 == --* ]]; do case $1 in --nodelist=*) nodes=${{1#*=}} ;; esac; shift; done
for node in $nodes; do
  ssh -n -q -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null {user}@"$node" \
    "cd $(printf '%q' "$PWD"); $(export -p); $(printf '%q ' "$@")" &
  started+=($!)
done
for one in "${{started[@]}}"; do wait "$one" || code=$?; done
exit "${{code:-0}}"
"""

SCONTROL = """\
#!/bin/bash
[ "$*" = "show hostnames list-of-nodes" ] && printf '%s\\n' {nodes}
"""


LENT = f"{HOME / PROJECT}/.venv/bin/ray stop --force; : > ~/.bench_environment"
"""A node is lent without a Ray, and its shells know of none; there may have been a cluster on it before."""


def install(site: Site, commands: Path) -> None:
    """Put the stand-ins, the script and the project where all hosts see them."""
    nodes = " ".join(site.hosts.names)
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text.format(nodes=nodes, key=site.hosts.key, user=USER))
        (commands / name).chmod(0o755)
    for name in site.hosts.names:
        parts = ["bench", "launch.py", "search_spaces", "deploy", "pyproject.toml"]
        there = f"{USER}@{site.hosts.addresses[name]}:{HOME / PROJECT}/"
        shell = f"ssh -q -i {site.hosts.key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        site.run("rsync", "-a", "-e", shell, *[str(ROOT / part) for part in parts], there)
        assert site.hosts.ssh(name, LENT).returncode == 0
        token = site.hosts.folder / "operator/.ray/auth_token"  # the home folder that Slurm's nodes share
        assert site.hosts.ssh(name, f"mkdir -p ~/.ray && cp {token} ~/.ray/").returncode == 0


def test_nodes_that_slurm_lends_give_the_records_of_a_single_machine(site: Site, alone: Outcome) -> None:
    commands = site.hosts.folder / "slurm"
    install(site, commands)
    job = {"SLURM_SUBMIT_DIR": HOME / PROJECT, "SLURM_JOB_ID": 4711, "SLURM_JOB_NODELIST": "list-of-nodes"}
    job |= {"SLURM_JOB_NUM_NODES": 2, "SLURM_CPUS_PER_TASK": 1, "OMP_NUM_THREADS": 1}
    exports = " ".join(f"{name}={value}" for name, value in job.items())
    results = HOME / "bench" / "slurm"
    _, _, *arguments = site.study(results, "--slots", "2")
    script = f"export PATH={commands}:$PATH {exports}; bash {HOME / PROJECT}/deploy/slurm.sh {shlex.join(arguments)}"
    site.run(
        "ssh",
        "-q",
        "-i",
        str(site.hosts.key),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        f"{USER}@{site.hosts.addresses[site.head]}",
        script,
    )
    found = site.outcome(results)
    assert found.hosts == set(site.hosts.names)
    assert found.stable == alone.stable
