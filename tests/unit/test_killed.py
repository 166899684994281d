"""The end of a launch that was killed: its runs are marked, and those of nobody else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.folder import LaunchFolder
from bench.launching import killed
from bench.reporting import mlflow_killed


class Store:
    """As much of MLflow's client as is needed: two launches; a trial of one still runs, and a variant of that."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def search_experiments(self) -> list[Any]:
        return [SimpleNamespace(experiment_id="1")]

    def search_runs(self, experiments: list[str], asked: str) -> list[Any]:
        assert experiments == ["1"]
        inner = {"parent": "child", "child": "variant"}
        running = {
            f"tags.`mlflow.parentRunId` = '{outer}' and attributes.status = 'RUNNING'": name
            for outer, name in inner.items()
        }
        name = {"tags.launch = 'mine'": "parent", **running}.get(asked)
        info = SimpleNamespace(run_id=name, experiment_id="1", status="RUNNING")
        return [SimpleNamespace(info=info)] if name else []

    def set_tag(self, *values: str) -> None:
        self.calls.append(values)

    def set_terminated(self, *values: str) -> None:
        self.calls.append(values)


def test_the_runs_of_a_launch_are_ended() -> None:
    store: Any = Store()
    mlflow_killed.mark(store, "mine")
    said = (("status", "interrupted"), ("KILLED",))
    expected = [(name, *words) for name in ("variant", "child", "parent") for words in said]
    assert store.calls == expected
    other: Any = Store()
    mlflow_killed.mark(other, "another")
    assert other.calls == []


@pytest.mark.parametrize(("ended", "marked"), [(False, ["mine"]), (True, [])])
def test_only_an_unfinished_launch_is_marked(
    ended: bool, marked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = LaunchFolder(tmp_path), list[str]()
    monkeypatch.setattr(mlflow_killed, "opened", lambda uri: uri)
    monkeypatch.setattr(mlflow_killed, "mark", lambda store, launch: seen.append(launch))
    killed.main(folder, "sqlite://")
    assert seen == []
    folder.manifest.write_text(json.dumps({"id": "mine", "ended": ended, "asked": {}}))
    killed.main(folder, "sqlite://")
    assert seen == marked


def test_a_launch_that_somebody_has_gone_on_with_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = LaunchFolder(tmp_path), list[str]()
    folder.manifest.write_text(json.dumps({"id": "mine", "ended": False, "asked": {}}))
    monkeypatch.setattr(mlflow_killed, "opened", lambda uri: uri)
    monkeypatch.setattr(mlflow_killed, "mark", lambda store, launch: seen.append(launch))
    monkeypatch.setattr("bench.folder.LOCK_SECONDS", 0)
    with folder.locked():
        killed.main(folder, "sqlite://")
    assert seen == []
