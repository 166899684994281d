"""The timing behind the plan of a launch; what it says is tested through the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import data, models, training
from bench.launching import benchmarks, plans, studies
from bench.spec import SpecError


@pytest.fixture(scope="module", autouse=True)
def _digits() -> None:
    """The target, whose reader takes longer to import than any test here takes."""
    data.target("digits")


def test_a_suite_is_estimated_row_by_row(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (tmp_path / "two.yaml").write_text("suite: [linear, block_expansion]\ntrials: 2\nseeds: [0]\n")
    overrides = ["search.p.choices=[1, 2]", "train.batch_size=2"]
    suite = studies.load(str(tmp_path / "two.yaml"), overrides=overrides)
    *rows, total = plans.estimate(suite, benchmarks.get("tiny"), torch.device("cpu"))
    found = [re.fullmatch(r" +(\S.*?) +([\d.]+) ms a step", line) for line in rows]
    assert [one and one[1] for one in found] == ["linear", "block_expansion p=1", "block_expansion p=2"]
    assert min(float(one[2]) for one in found if one) > 0
    assert re.fullmatch(r"Estimate:  0\.0\d hours of one cpu in training steps; readings come on top", total)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], ["sampler tpe, lag 8: proposal n knows the results of trials 0 to n - 8"]),
        (["lag=2", "sampler=qmc"], ["sampler qmc, lag 2: proposal n knows the results of trials 0 to n - 2"]),
        (
            ["beliefs=[{values: {lr: 0.02}, weight: 0.25, source: a paper}, {values: {rank: 4}, weight: 0.5}]"],
            ["believed at first: lr = 0.02 (weight 0.25), a paper", "believed at first: rank = 4 (weight 0.5)"],
        ),
        (
            ["scheduler=asha", "train.val_every=10", "train.budget=2"],
            ["scheduler asha: the worse half of a row ends after 10, 20, 40, 80, 160 of 300 steps"],
        ),
        (
            ["objective=[target_accuracy, forgetting]", "scheduler=asha", "train.val_every=40"],
            ["scheduler asha: what is far behind others of a row ends after 40, 80 of 150 steps"],
        ),
        (
            [
                "objective=[target_accuracy, source_accuracy]",
                "candidates=every",
                "train.schedule=none",
                "train.val_every=10",
            ],
            ["candidates every: each reading after the warm-up may be on the front"],
        ),
        (
            ["train.keep=best", "train.val_every=10"],
            ["keep best: what counts of a trial is its model with the best mean among its validation readings"],
        ),
        (
            ["protocol=paper"],
            [
                "keep best: what counts of a trial is its model with the best target_accuracy among its test readings",
                "protocol paper: configurations are chosen on test data, and marked so",
            ],
        ),
    ],
)
def test_a_plan_says_how_trials_are_proposed_ended_and_chosen(overrides: list[str], said: list[str]) -> None:
    study = studies.load("lora", overrides=overrides).studies[0]
    told = list(plans._how(study, studies.corners(study, benchmarks.get("tiny"))))
    assert len(told) == len(said) + (not any("sampler" in sentence for sentence in said))
    for sentence in said:
        assert any(line.startswith(sentence) for line in told)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_estimate_names_peak_memory() -> None:
    (row, _) = plans.estimate(studies.load("linear"), benchmarks.get("tiny"), torch.device("cuda"))
    assert "GiB at most" in row


def test_the_steps_of_epochs_are_counted_on_the_target() -> None:
    suite = studies.load("linear", overrides=["train.epochs=2", "trials=1", "seeds=[0]"])
    assert plans._sizes(suite, benchmarks.get("tiny")) == "32 steps x 64 images"  # 997 images
    assert plans._seen(suite, benchmarks.get("tiny")) == 2 * 32 * 64


@pytest.mark.parametrize(
    ("study", "override", "said"),
    [
        ("linear", ["train.epochs=1", "train.warmup_steps=16"], "epochs = 1 of 997 images: warmup_steps = 16 leaves"),
        ("linear", ["train.views=10000000"], "needs .* GiB for activations"),
        ("full", ["train.views=2"], "train.views needs"),
    ],
)
def test_what_only_the_images_can_tell_is_checked_before_anything_starts(
    study: str, override: list[str], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        plans.check(studies.load(study, overrides=override), benchmarks.get("tiny"))


def test_recipes_that_fit_pass() -> None:
    overrides = ["train.views=2", "train.epochs=1", "search.k.choices=[3]"]
    plans.check(studies.load("top_k", overrides=overrides), benchmarks.get("tiny"))


def test_views_must_fit_beside_those_of_the_other_workers() -> None:
    suite = studies.load("top_k", overrides=["train.views=20", "search.k.choices=[3]"])
    plans.check(suite, benchmarks.get("tiny"), processes=1)
    with pytest.raises(SpecError, match=r"needs 0\.1 GiB for activations, and 0\.0 GiB may be used"):
        plans.check(suite, benchmarks.get("tiny"), processes=10_000)
    plans.check(suite, benchmarks.get("tiny"))


@pytest.mark.parametrize(
    ("override", "shares"), [("seeds=[0]", True), ("train.flip=true", False), ("train.share_frozen=false", False)]
)
def test_a_step_is_timed_as_it_is_computed(override: str, shares: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[type] = []
    train = training.train

    def noted(model: Any, *args: Any, **values: Any) -> training.Trained:
        timed.append(type(model))
        return train(model, *args, **values)

    monkeypatch.setattr(training, "train", noted)
    suite = studies.load("linear", overrides=["train.batch_size=2", override])
    list(plans.estimate(suite, benchmarks.get("tiny"), torch.device("cpu")))
    assert {kind is models.Tail for kind in timed} == {shares}
