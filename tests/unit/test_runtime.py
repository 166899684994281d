"""What is around Ray: where its files go, what the environment says, and who ends it when nobody else can."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.exceptions import ActorDiedError

from bench.cluster import guardian, runtime
from bench.cluster.guardian import Farewell
from bench.reporting.events import Ended
from bench.reporting.output import output
from bench.spec import LaunchOptions, SpecError

WRITER = "import sys, time; file = open(sys.argv[1], sys.argv[2]); print(flush=True); time.sleep(60)"

NOTED = "RAY_task_events_report_interval_ms"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a log, as Ray's."""
    (tmp_path / "ray" / "logs").mkdir(parents=True)
    (tmp_path / "ray" / "logs" / "x.log").touch()
    return tmp_path / "ray"


@pytest.fixture
def user(place: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Somebody who writes to the log, and somebody who only reads it."""
    users = {
        mode: subprocess.Popen(
            [sys.executable, "-c", WRITER, str(place / "logs" / "x.log"), mode], stdout=subprocess.PIPE
        )
        for mode in ("a", "r")
    }
    for one in users.values():
        assert one.stdout is not None
        one.stdout.readline()
    yield users
    for one in users.values():
        one.kill()
        one.communicate()


def watch(place: Path, *farewells: Farewell, orderly: bool) -> str:
    """What a guardian says whose launch ends at once."""
    lines = "".join(json.dumps(vars(one)) + "\n" for one in farewells) + "goodbye" * orderly
    command = [sys.executable, "-I", guardian.__file__, str(place)]
    return subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("orderly", [True, False])
def test_a_guardian_ends_who_writes_and_nobody_else(
    place: Path, user: dict[str, subprocess.Popen[bytes]], orderly: bool
) -> None:
    echo = (sys.executable, "-c", "import sys; print('read ' + sys.stdin.read())")
    said = watch(place, Farewell("it was killed", echo, "secret"), orderly=orderly)
    assert said == ("" if orderly else "it was killed\nread secret\n")
    assert user["a"].wait(timeout=5) == -9
    assert user["r"].poll() is None
    assert not place.exists()


def test_a_guardian_says_what_it_was_told_last(place: Path) -> None:
    early, late = Farewell("the same command goes on", ("false",)), Farewell("the results are complete")
    assert watch(place, early, late, orderly=False) == "the results are complete\n"
    assert watch(place, early, late, orderly=True) == ""


def test_a_guardian_stamps_what_it_says_with_the_time_of_the_end(place: Path) -> None:
    sentence = output(LaunchOptions(json_lines=True), io.StringIO()).farewell("it was killed: {braces} stay")
    before = datetime.now(UTC)
    ended = Ended.model_validate_json(watch(place, Farewell(sentence), orderly=False))
    assert (ended.status, ended.text) == ("killed", "it was killed: {braces} stay")
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(ended.time) <= datetime.now(UTC)


def test_a_guardian_spares_itself_and_the_launch(place: Path) -> None:
    with (place / "logs" / "x.log").open("a"):
        assert psutil.Process() not in guardian.writers(place)


def test_sockets_go_where_their_paths_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert runtime.short_folder() == Path("/tmp")
    assert len(os.fsencode(Path("/tmp") / runtime.SOCKET)) <= runtime.LONGEST_SOCKET
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != Path("/tmp"))
    with pytest.raises(SpecError, match=r"sockets do not fit into .*xxx .*set TMPDIR to a folder with a short name"):
        runtime.short_folder()


def test_a_full_folder_for_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(2**30, 2**30, 2**20))
    with pytest.raises(SpecError, match=r"1 MiB are free in /.*, and Ray needs 64 MiB there"):
        runtime.short_folder()


@pytest.mark.parametrize(("value", "heeded"), [("0", False), ("false", False), ("1", True), ("True", True)])
def test_a_setting_that_a_launch_needs_is_said_to_be_overridden(
    value: str, heeded: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[str | None] = []
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_TRAIN_V2_ENABLED": value, "RAY_ADDRESS": "1.2.3.4:5"})
    monkeypatch.setattr(runtime, "_start", lambda *_: started.append(os.environ.get("RAY_ADDRESS")))
    said = runtime.start_ray(None, folder=tmp_path)
    assert started == [None]
    assert os.environ["RAY_TRAIN_V2_ENABLED"] == "1"
    assert said[-1].startswith("RAY_ADDRESS is not heeded: on this machine")
    assert said[:-1] == ([] if heeded else [f"RAY_TRAIN_V2_ENABLED={value} is not heeded: a launch needs 1"])


@pytest.mark.parametrize(
    ("address", "given", "expected"), [(None, {}, "0"), (None, {NOTED: "1000"}, "1000"), ("auto", {}, None)]
)
def test_only_where_a_dashboard_may_read_it_ray_notes_every_task(
    address: str | None,
    given: dict[str, str],
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A cluster's owner may look at one; a Ray of the launch's own has none, unless the user wants it noted."""
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name != NOTED} | given)
    monkeypatch.setattr(runtime, "_start", lambda *_: None)
    monkeypatch.setattr(runtime.ray, "init", lambda *_, **__: None)
    runtime.start_ray(address, folder=tmp_path)
    assert os.environ.get(NOTED) == expected


def test_ray_is_started_again_if_it_takes_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun: list[str] = []

    def slow(*_: object, _temp_dir: str, **__: object) -> None:
        begun.append(_temp_dir)
        assert os.environ["TMPDIR"] == _temp_dir
        if len(begun) < runtime.TRIES:
            raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr("ray.init", slow)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    runtime._start(tmp_path, 1, lambda: runtime._watched(Farewell(), None))
    runtime.stop_ray()
    assert len(set(begun)) == runtime.TRIES
    assert [place for place in begun if Path(place).exists()] == []


def test_ray_that_never_starts_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr("ray.init", fails)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with pytest.raises(SpecError, match=r"Ray could not be started .*in 3 tries \(The current node timed out"):
        runtime._start(tmp_path, 1, lambda: runtime._watched(Farewell(), None))


@pytest.mark.parametrize(
    ("job", "has"),
    [
        (None, False),
        ("{}", False),
        ('{"runtime_env": null}', False),
        ('{"runtime_env": {"env_vars": {}}}', False),
        ('{"runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip"}}', True),
    ],
)
def test_a_job_with_files_of_its_own_is_given_no_others(
    job: str | None, has: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray refuses a working_dir within a job that has one."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(os, "environ", {**os.environ, **({} if job is None else {"RAY_JOB_CONFIG_JSON_ENV_VAR": job})})
    monkeypatch.setattr(runtime.ray, "init", lambda address, *, runtime_env, **_: given.append(runtime_env))
    runtime.start_ray("auto", folder=tmp_path)
    assert [("working_dir" in one, "excludes" in one) for one in given] == [(not has, not has)]


@pytest.mark.parametrize(("job", "has"), [("{}", False), ('{"runtime_env": {"py_modules": ["gcs://x.zip"]}}', True)])
def test_an_installed_package_is_sent_to_a_cluster_without_what_lies_beside_it(
    job: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(os, "environ", {**os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR": job})
    monkeypatch.setattr(runtime.ray, "init", lambda address, *, runtime_env, **_: given.append(runtime_env))
    runtime.start_ray("auto", folder=None)
    (sent,) = given
    assert "working_dir" not in sent
    assert sent.get("py_modules") == (None if has else [str(Path(runtime.__file__).parents[1])])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "[::1]:1", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_listens_is_refused_at_once(address: str, tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=f"cannot join a Ray cluster at --address {re.escape(address)}: nothing answers"
    ):
        runtime.start_ray(address, folder=tmp_path)


@pytest.mark.parametrize("ending", [False, True])
def test_the_end_of_the_board_is_rays_end_unless_something_else_ends_the_launch(ending: bool) -> None:
    """Whatever the main thread asks of the board fails then, before the listener may have heard of it."""
    raised = pytest.raises(ActorDiedError) if ending else pytest.raises(runtime.RayLost, match="board has ended")
    with raised, runtime.ended_with_ray(unless=lambda: ending):
        raise ActorDiedError


def test_a_clusters_nodes_get_the_code_and_nothing_that_is_large(tmp_path: Path) -> None:
    """As Ray packs it."""
    from ray._private.runtime_env.packaging import create_package

    code = {"launch.py", "bench/trial.py", "search_spaces/lora.yaml", "tests/x.py"}
    for name in code | {".git/objects/pack", ".venv/lib/torch.so", "results/a/b.json", "bench/data/__pycache__/x.pyc"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert runtime._code(None)["py_modules"] == [str(runtime.PACKAGE)]  # where it is installed
    found = runtime._code(tmp_path)
    assert found.keys() == {"working_dir", "excludes"}
    packed = tmp_path.parent / "packed.zip"
    create_package(found["working_dir"], packed, include_gitignore=True, excludes=found["excludes"])
    with zipfile.ZipFile(packed) as archive:
        assert {name for name in archive.namelist() if not name.endswith("/")} == code


def test_a_job_that_has_brought_its_code_is_sent_none(monkeypatch: pytest.MonkeyPatch) -> None:
    brought = json.dumps({"runtime_env": {"working_dir": f"local://{runtime.PACKAGE.parent}"}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", brought)
    assert runtime._code(runtime.PACKAGE.parent) == {}
