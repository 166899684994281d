"""A trial that is cut and goes on from its snapshot gives the very record of one that was not cut."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import trial
from bench.methods import Step
from bench.methods.l2_sp import L2Sp
from bench.readings import Point
from bench.spec import Trial
from bench.training import Snapshots
from bench.training.snapshot import SEAL_BYTES
from tests.ranks import Ranks

from . import test_trial
from .test_trial import small_data, stable

pytestmark = pytest.mark.xdist_group("ranks")

OFTEN = 1e-9
"""Minutes between snapshots: one after every step."""


TRAIN = 120
"""Images to train on."""


class CutError(Exception):
    """Stands for the death of the process."""


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    torch.set_num_threads(1)
    with small_data(TRAIN):
        yield


def make(method: str = "linear", *, steps: int = 6, **values: Any) -> Trial:
    given = test_trial.make(method, steps=steps, phase="search")
    train = given.train.model_copy(update={"batch_size": 12, "checkpoint_minutes": OFTEN, **values})
    return given.model_copy(update={"train": type(train).model_validate(train.model_dump())})


Result = tuple[dict[str, Any], list[Point]]


def run(given: Trial, folder: Path | None, cut: int | None = None) -> Result:
    """A trial's record and the points that were reported; cut after the snapshot of a step."""
    save, points = Snapshots.save, list[Point]()

    def saved(self: Snapshots, step: int) -> None:
        save(self, step)
        if step == cut:
            raise CutError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshots, "save", saved)
        record = trial.run(given, points.append, unfinished=folder)
    return stable(record), points


def cut_and_continued(given: Trial, folder: Path, cut: int) -> Result:
    with pytest.raises(CutError):
        run(given, folder, cut)
    assert [path.name for path in folder.iterdir()] == [f"{given.id}.pt"]
    return run(given, folder)


RECIPES: dict[str, Callable[[], Trial]] = {
    "momentum, best of the readings": lambda: make("top_k", steps=4, val_every=1, keep="best", clip_norm=1.0),
    "adam, parts of a step, mixed and augmented": lambda: make(
        "top_k", steps=4, optimizer="adamw", accumulate=2, mixup_alpha=0.2, crop_min=0.5, flip=True
    ),
    "views, more steps than reports": lambda: make("linear", steps=45, views=2, flip=True, optimizer="adam", lr=0.01),
    "a loss of its own": lambda: make("l2_sp", steps=4),
    "inserted blocks": lambda: make("block_expansion", steps=4, precision="bf16"),
    "peft": lambda: make("lora", steps=4, warmup_steps=2),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_trial_that_was_cut_ends_as_if_it_had_not_been(recipe: str, tmp_path: Path) -> None:
    given = RECIPES[recipe]()
    quiet = run(given, None)
    assert cut_and_continued(given, tmp_path, given.train.steps // 2) == quiet


def test_it_may_be_cut_again_and_again(tmp_path: Path) -> None:
    given = make("linear", steps=5, val_every=2)
    for cut in (1, 2, 5):
        with pytest.raises(CutError):
            run(given, tmp_path, cut)
    assert run(given, tmp_path) == run(given, None)


def test_random_numbers_and_what_a_method_notes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: L2Sp, step: Step) -> torch.Tensor:
        mean = vars(self).setdefault("mean", torch.zeros(()))
        vars(self)["mean"] = 0.9 * mean + 0.1 * step.logits.detach().mean()
        return 0.1 * (torch.rand(()) + vars(self)["mean"]) * step.logits.square().mean()

    monkeypatch.setattr(L2Sp, "loss", loss)
    given = make("l2_sp", steps=4)
    assert cut_and_continued(given, tmp_path, 2) == run(given, None)


def test_a_snapshot_stays_until_the_result_is_safe(tmp_path: Path) -> None:
    """A worker may die after the last step and before its record has arrived: what it had done is not lost."""
    given = make("linear")
    done = run(given, tmp_path)
    seen: list[int] = []
    again = trial.run(given, lambda point: seen.append(len(list(tmp_path.iterdir()))), unfinished=tmp_path)
    assert (stable(again), seen[-1:]) == (done[0], [1])
    assert [path.name for path in tmp_path.iterdir()] == [f"{given.id}.pt"]


def test_who_wants_to_know_hears_of_every_snapshot_that_is_there(tmp_path: Path) -> None:
    given, heard = make("linear", steps=5), list[int]()
    trial.run(given, unfinished=tmp_path, saved=heard.append)
    assert heard == sorted(set(heard))
    assert heard[-1] == 5
    written = torch.load(io.BytesIO((tmp_path / f"{given.id}.pt").read_bytes()[65:]), weights_only=True)
    assert written["step"] == heard[-1]


def test_a_trial_that_is_stopped_leaves_its_snapshot_to_the_driver(tmp_path: Path) -> None:
    given = make("linear")

    def stop(point: Point) -> None:
        if point.step == 3:
            raise trial.TrialStopped

    assert trial.run(given, stop, unfinished=tmp_path).status == "stopped"
    assert [path.name for path in tmp_path.iterdir()] == [f"{given.id}.pt"]


def on_ranks(rank: int, world: int, given: Trial, folder: Path | None, cut: int | None) -> Result | None:
    torch.set_num_threads(1)
    with small_data(TRAIN):
        try:
            return run(given, folder, cut)
        except CutError:
            return None


def test_ranks_go_on_together(tmp_path: Path, ranks: Ranks) -> None:
    """Only rank 0 sees the folder; more than two ranks sum in an order that depends on DDP's first step."""
    given, world = make("top_k", steps=3, val_every=1), 3
    quiet = ranks(on_ranks, given, None, None, world=world)
    assert ranks(on_ranks, given, tmp_path, 2, world=world) == [None] * world
    assert ranks(on_ranks, given, tmp_path, None, world=world) == quiet


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (damage, "is damaged"),
    "cut off": (lambda path: os.truncate(path, 1000), "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "shorter than its seal": (lambda path: path.write_bytes(b"x" * (SEAL_BYTES - 1)), "is damaged"),
}


@dataclass(frozen=True)
class Cut:
    """A trial, the snapshot that it left when it was cut, and what it gives if it is not."""

    given: Trial
    snapshot: bytes
    quiet: Result


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Cut:
    given, folder = make("linear", steps=3), tmp_path_factory.mktemp("cut")
    with pytest.raises(CutError):
        run(given, folder, 2)
    return Cut(given, (folder / f"{given.id}.pt").read_bytes(), run(given, None))


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_snapshot_means_a_start_from_the_first_step(kind: str, short: Cut, tmp_path: Path) -> None:
    do, said = DAMAGES[kind]
    path = tmp_path / f"{short.given.id}.pt"
    path.write_bytes(short.snapshot)
    do(path)
    with pytest.warns(RuntimeWarning, match=f"{said}: the trial starts from its first step") as warned:
        assert run(short.given, tmp_path) == short.quiet
    assert len([one for one in warned if said in str(one.message)]) == 1


def test_a_snapshot_of_another_configuration_is_not_used(short: Cut, tmp_path: Path) -> None:
    (tmp_path / f"{short.given.id}.pt").write_bytes(short.snapshot)
    train = short.given.train.model_copy(update={"momentum": 0.8})
    other = short.given.model_copy(update={"train": train})
    with pytest.warns(RuntimeWarning, match="belongs to another configuration: the trial starts from its first step"):
        assert run(other, tmp_path) == run(other, None)


def test_nothing_is_kept_where_that_is_not_wanted(tmp_path: Path) -> None:
    given = make("linear", steps=2, checkpoint_minutes=0)
    seen: list[int] = []
    trial.run(given, lambda point: seen.append(len(list(tmp_path.iterdir()))), unfinished=tmp_path)
    assert seen == [0, 0]


def test_the_clock_is_looked_at_seldom_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second a step and a snapshot a minute: at most a step late, and a look or two between."""
    now = [0.0]
    monkeypatch.setattr("bench.training.snapshot.time.monotonic", lambda: now[0])
    snapshots = Snapshots(None, key="", minutes=1, device=torch.device("cpu"))
    looks: list[int] = []
    left = snapshots._steps_left
    monkeypatch.setattr(snapshots, "_steps_left", lambda step: (looks.append(step), left(step))[1])
    snapshots.begin(None)
    saved = []
    for step in range(1, 301):
        now[0] += 1
        if snapshots.due(step):
            saved.append(step)
            snapshots.save(step)
    assert saved == [60, 120, 180, 240, 300]
    assert len(looks) < 20


def test_records_do_not_depend_on_how_often_snapshots_are_kept(tmp_path: Path) -> None:
    often, seldom = (make("linear", steps=4, checkpoint_minutes=minutes) for minutes in (OFTEN, 10))
    one, other = run(often, tmp_path / "often")[0], run(seldom, tmp_path / "seldom")[0]
    assert {**one, "config": None} == {**other, "config": None}
