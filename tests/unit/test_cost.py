"""The page on costs is what its command makes, and its arithmetic is that of the code it speaks of."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench import models
from bench.launching import benchmarks
from bench.spec import Backbone
from tests.performance import cost, flops, work_hours
from tests.performance.work_hours import Costs, How, Images, Rates, Row
from tests.performance.works import CLASSES, Work

ROOT = Path(__file__).resolve().parents[2]
MODEL = "vit_base_patch16_224.dino"


def test_the_page_is_what_its_command_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^Made by `(.+)`", page, flags=re.MULTILINE)
    asked = shlex.split(command)
    assert asked[:3] == ["python", "-m", "tests.performance.cost"]
    assert asked[-2:] == ["--out", "docs/cost.md"]
    assert cost.main([*asked[3:-1], str(tmp_path / "cost.md")]) == 0
    assert (tmp_path / "cost.md").read_bytes() == (ROOT / "docs" / "cost.md").read_bytes()


def test_operations_are_those_of_the_model() -> None:
    # timm's table of results has 17.58 billion multiplications with an addition each for ViT-B/16 at 224 pixels.
    assert flops.of_features(Backbone(name=MODEL)) == pytest.approx(2 * 17.58e9, rel=0.005)
    work = Work("tiny", 8, 2, "fp32", None)
    for method, frozen in (("full", 0), ("top_k", 9), ("linear", 12), ("lora", 0), ("block_expansion", 4)):
        trial = work.trial(method)
        counts = flops.of(trial, classes=CLASSES)
        vit: Any = models.build(trial, CLASSES).train()
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(vit(torch.randn(4, 3, 32, 32)), torch.zeros(4, dtype=torch.int64)).backward()
        # A fused kernel of attention computes one product in seven anew in its backward pass.
        assert counts.step <= counter.get_total_flops() / 4 < 1.03 * counts.step
        assert counts.image <= counts.step
        assert counts.frozen == frozen


def test_pruned_steps_are_those_of_rays_scheduler() -> None:
    from ray.tune.schedulers.async_hyperband import _Bracket

    draw = random.Random(0)
    for trials, steps, every in ((4, 100, 10), (16, 10_000, 2500), (16, 10_000, 1000), (9, 1000, 1000), (5, 640, 10)):
        qualities = list(range(trials))
        draw.shuffle(qualities)
        rungs = [rung for power in range(9) if (rung := every * 4**power) < steps]
        seen: list[list[float]] = [[] for _ in rungs]
        ours = [work_hours._steps_of(quality, rungs, seen, steps) for quality in qualities]
        bracket = _Bracket(every, steps, 4, 0)
        theirs = []
        for number, quality in enumerate(qualities):
            step = every
            while step < steps and bracket.on_result(_Named(number), step, quality) != "STOP":
                step += every
            theirs.append(min(step, steps))
        assert ours == theirs


class _Named:
    """What the scheduler knows of a trial."""

    def __init__(self, number: int) -> None:
        self.trial_id = str(number)


def test_a_pruned_search_takes_less_than_a_whole_one() -> None:
    assert work_hours.pruned_steps(1, 1000, 100) == 1000
    assert work_hours.pruned_steps(16, 1000, 1000) == 1000
    assert 100 < work_hours.pruned_steps(64, 1000, 100) < work_hours.pruned_steps(4, 1000, 100) < 1000


RATES = Rates("x", memory=2**30, training={"": 1e12}, measuring=1e11, pairs=1e9, origin="")


def row(method: str, counts: flops.Counts, **row: Any) -> Row:
    trial = Work("tiny", 8, 2, "fp32", None).trial(method).model_copy(update={"row": row})
    return Row(trial, counts, searched=4, confirmed=3)


def costs(rates: Rates = RATES) -> Costs:
    return Costs(rates, benchmarks.get("tiny"))


def test_hours_are_operations_over_rates() -> None:
    full = row("full", flops.Counts(step=3 * 10**9, image=10**9, frozen=0))
    plain = How("")
    assert costs().training(full, plain, 100) == pytest.approx(100 * 8 * 3e9 / 1e12 / 3600)
    images = Images(target=10, queries=20, bank=1000)
    assert costs().measuring(full, plain, images, 2) == pytest.approx(
        (2 * 1030 * 1e9 / 1e11 + 2 * 20 * 1000 / 1e9) / 3600
    )
    linear = row("linear", flops.Counts(step=10**9, image=10**9, frozen=12))
    assert costs().measuring(linear, plain, images, 2) == pytest.approx(2 * 10 * 1e9 / 1e11 / 3600)


def test_what_is_shared_is_computed_once_where_it_fits() -> None:
    prefix = flops.of_features(models.TINY, 9)
    tail = row("top_k", flops.Counts(step=10**9, image=10**9, frozen=9), k=3)
    shared, images = How("", shared=True), Images(target=10, queries=20, bank=1000)
    found = costs().measuring(tail, shared, images, 5) * 3600
    assert found == pytest.approx((1030 * (5 * (1e9 - prefix) + prefix)) / 1e11 + 5 * 20 * 1000 / 1e9)
    one = 4 * 17 * 64  # bytes of an image's activations in float32
    little = costs(Rates("x", 31 * one / 0.3, {"": 1e12}, 1e11, 1e9, ""))  # the two small sets fit, the bank does not
    expected = 30 * (5 * (1e9 - prefix) + prefix) + 1000 * 5 * 1e9
    assert little.measuring(tail, shared, images, 5) * 3600 == pytest.approx(expected / 1e11 + 5 * 20 * 1000 / 1e9)


def test_views_need_a_frozen_beginning_and_room() -> None:
    views = How("", views=1)
    tail = row("top_k", flops.Counts(step=10**9, image=10**9, frozen=9))
    probe = row("linear", flops.Counts(step=10**9, image=10**9, frozen=12))
    full = row("full", flops.Counts(step=10**9, image=10**9, frozen=0))
    needed = 2 * 17 * 64 * work_hours.TRAIN
    for share, fits in ((1.01, [True, True, False]), (0.99, [False, True, False])):
        found = costs(Rates("x", share * needed / 0.3, {"": 1e12}, 1e11, 1e9, ""))
        assert [found.views_fit(one, views) for one in (tail, probe, full)] == fits
    assert costs().views_once(full, views) == 0
    once = work_hours.TRAIN * flops.of_features(models.TINY, 9) / 1e12 / 3600
    assert costs().views_once(tail, views) == pytest.approx(once)


def report(**changes: Any) -> dict[str, Any]:
    """What `make gpu` writes, as far as it is read."""
    step, image = 105e9, 35e9
    lines = [
        {"name": "full, from memory", "value": 4000.0, "facts": {"method": "full", "flops_per_image": step}},
        {"name": "features, fp32, from memory", "value": 900.0, "facts": {"model": MODEL, "flops_per_image": image}},
        {"name": "k-NN, 2 x 3 x 4, fp16", "value": 5.0, "facts": {"pairs_per_second": 2e10}},
    ]
    machine = {"device": "H200", "memory": "139.8 GiB", "torch": "2.11", "timm": "1.0.31"}
    return {"machine": machine, "parts": [{"lines": lines}], **changes}


def test_measured_rates_take_the_place_of_the_estimate(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(report()))
    rates = cost.measured(path, MODEL)
    assert (rates.device, rates.of("full")) == ("H200", 4000 * 105e9)
    assert (rates.measuring, rates.pairs) == (900 * 35e9, 2e10)
    assert rates.memory == pytest.approx(139.8 * 2**30)
    assert "measured by `make gpu`" in rates.origin
    assert rates.tf32 is None
    assert not [how for how in cost._ways(rates, 8, 2500) if how.tf32]
    faster = {"name": "features, tf32, from memory", "value": 3000.0, "facts": {"flops_per_image": 35e9}}
    path.write_text(json.dumps(report(parts=[{"lines": [*report()["parts"][0]["lines"], faster]}])))
    quick = cost.measured(path, MODEL)
    images = work_hours.Images(target=2, queries=3, bank=4)
    benchmark = benchmarks.get("cifar100")
    saved = [Costs(quick, benchmark).untouched(images, How("", tf32=tf32)) for tf32 in (False, True)]
    operations = 7 * flops.of_features(benchmark.backbone)
    assert [hours * 3600 for hours in saved] == pytest.approx(
        [operations / (speed * 35e9) + 12 / 2e10 for speed in (900, 3000)]
    )
    assert sum(how.tf32 for how in cost._ways(quick, 8, 2500)) == 2
    with pytest.raises(ValueError, match="no figure for lora: run `make gpu` without --only"):
        rates.of("lora")
    with pytest.raises(ValueError, match=r"was measured with vit_base.*, and the table is of other"):
        cost.measured(path, "other")
    path.write_text(json.dumps(report(parts=[])))
    with pytest.raises(ValueError, match="holds no speed of features or of k-NN"):
        cost.measured(path, MODEL)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--price", "here"], "give a place and dollars an hour"),
        (["--price", "here=-1"], "give a place and dollars an hour"),
        (["--price", "here=nan"], "give a place and dollars an hour"),
        (["--views", "0"], "--views must be at least 1"),
        (["--every", "20000"], "--every from 1 to 10,000"),
        (["--measured", "nowhere.json"], "nowhere.json"),
        (["--rates", "README.md"], "is no JSON: Expecting value"),
    ],
)
def test_bad_input_ends_with_a_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        cost.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
