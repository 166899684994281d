"""`ray up deploy/on-premise.yaml` on two hosts, and what people do then. Its transcript shows every command."""

from __future__ import annotations

import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import Cluster, Outcome, say
from .hosts import HOME

pytestmark = [pytest.mark.timeout(1800)]


def results(name: str) -> Path:
    return HOME / "bench" / name


def run_study(cluster: Cluster, name: str, *more: str) -> str:
    return cluster.on_head(shlex.join(cluster.study(results(name), *more)))


def test_both_hosts_come_up_by_one_command(cluster: Cluster) -> None:
    assert cluster.nodes() == set(cluster.hosts.addresses.values())
    assert "Active" in cluster.on_head("ray status")


def test_up_may_be_repeated(cluster: Cluster) -> None:
    before = cluster.hosts.ssh(cluster.head, "cat ~/bench/mlflow/pid").stdout
    cluster.up()
    cluster.wait_for_nodes(set(cluster.hosts.names))
    assert cluster.hosts.ssh(cluster.head, "cat ~/bench/mlflow/pid").stdout == before != ""


def test_shells_of_the_head_know_the_cluster_and_its_mlflow(cluster: Cluster) -> None:
    said = cluster.on_head('echo "$PWD $RAY_ADDRESS $MLFLOW_TRACKING_URI $BENCH_DATA $(command -v python)"')
    project = HOME / "vit-forgetting-bench"
    assert f"{project} auto http://127.0.0.1:5000 {HOME}/bench/data {project}/.venv/bin/python" in said


def test_jobs_know_the_same(cluster: Cluster) -> None:
    show = 'echo "JOB $PWD $RAY_ADDRESS $MLFLOW_TRACKING_URI $BENCH_DATA"'
    said = cluster.on_head(f"ray job submit -- bash -c {shlex.quote(show)}")
    assert f"JOB {HOME}/vit-forgetting-bench auto http://127.0.0.1:5000 {HOME}/bench/data" in said


def test_pages_are_on_loopback_and_ray_asks_for_the_token(cluster: Cluster) -> None:
    said = cluster.hosts.ssh(cluster.head, "ss -Hltn").stdout
    say(said)
    listening = {line.split()[3].rpartition(":")[::2] for line in said.splitlines()}
    for port in ("5000", "8265"):
        assert {address for address, its in listening if its == port} == {"127.0.0.1"}
    stranger = "RAY_AUTH_MODE=disabled python -c 'import ray; ray.init(\"auto\")'"
    refused = cluster.hosts.ssh(cluster.worker, f". ~/.bench_environment; timeout 60 env {stranger}")
    assert refused.returncode != 0
    without = "curl --silent --output /dev/null --write-out '%{http_code}' http://127.0.0.1:8265/api/jobs/"
    assert cluster.hosts.ssh(cluster.head, without).stdout.startswith("401")


def test_two_slots_give_the_records_of_a_single_machine(cluster: Cluster, alone: Outcome) -> None:
    said = run_study(cluster, "slots", "--slots", "2")
    assert "2 slots x 1 worker" in said
    found = cluster.outcome(results("slots"))
    assert found.hosts == set(cluster.hosts.names)
    assert found.stable == alone.stable


def test_two_processes_on_two_hosts_give_the_records_of_a_single_machine(
    cluster: Cluster, alone_in_pairs: Outcome
) -> None:
    said = run_study(cluster, "pairs", "--num-workers", "2", "--slots", "1")
    assert "1 slot x 2 workers" in said
    assert cluster.outcome(results("pairs")).stable == alone_in_pairs.stable


def test_runs_are_in_the_heads_mlflow(cluster: Cluster, alone: Outcome) -> None:
    code = "from mlflow import MlflowClient; c = MlflowClient(); e = c.get_experiment_by_name('block_expansion')"
    code += "; print('RUNS', len(c.search_runs([e.experiment_id])))"
    runs = int(re.findall(r"RUNS (\d+)", cluster.on_head(f'python -c "{code}"'))[0])
    assert runs >= 2 * (len(alone.records) + 1)  # of two launches: a run for each trial, and one above them


def test_a_job_runs_in_the_projects_folder(cluster: Cluster, alone: Outcome) -> None:
    launch = shlex.join(cluster.study(results("job")))
    said = cluster.on_head(f"ray job submit -- {launch}")
    assert "succeeded" in said
    assert cluster.outcome(results("job")).stable == alone.stable


def test_a_job_runs_in_a_folder_that_is_handed_in(cluster: Cluster, alone: Outcome) -> None:
    launch = shlex.join(cluster.study(results("handed_in")))
    said = cluster.on_head(f"ray job submit --working-dir . -- {launch}", code=None)
    assert "succeeded" in said
    assert cluster.outcome(results("handed_in")).stable == alone.stable


def test_a_host_that_is_lost_in_mid_study_costs_nothing(cluster: Cluster, alone: Outcome) -> None:
    launch = shlex.join(cluster.study(results("lost"), "--slots", "2"))
    with ThreadPoolExecutor() as threads:
        running = threads.submit(cluster.on_head, f"timeout --kill-after=60 480 {launch}", code=None)
        while not cluster.outcome(results("lost")).records and not running.done():
            time.sleep(0.2)
        cluster.hosts.cut_off(cluster.worker)
        say(f"# {cluster.worker} is cut off")
        assert "Table, picture and records" in running.result()
    assert cluster.outcome(results("lost")).stable == alone.stable


def test_a_lost_host_comes_back_by_itself(cluster: Cluster, alone: Outcome) -> None:
    cluster.hosts.cut_off(cluster.worker)
    cluster.wait_for_nodes({cluster.head})
    cluster.hosts.start(cluster.worker)
    cluster.wait_for_nodes(set(cluster.hosts.names))
    run_study(cluster, "revived", "--slots", "2")
    found = cluster.outcome(results("revived"))
    assert found.hosts == set(cluster.hosts.names)
    assert found.stable == alone.stable
