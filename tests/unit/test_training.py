"""The training loop: batches, schedule, reports, divergence, and what a method adds to a step."""

from __future__ import annotations

import functools
import time
import types
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from bench import methods, parallel, training
from bench.data import Images
from bench.methods import Group, Method, Step
from bench.methods.full import Full
from bench.models import HeadNorm, Preprocess
from bench.readings import Point, Reading
from bench.spec import SpecError, TrainConfig
from bench.training import Feed, Watch, compile_blocks, evaluation_mode, loop, losses, precision_on, steps
from bench.vit import Vit, as_module
from tests.ranks import RankError, Ranks

CPU = torch.device("cpu")
PLAIN = Preprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def images(count: int = 50) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 4)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def feed() -> Feed:
    return Feed(images(), PLAIN, classes=4)


def fit(config: TrainConfig) -> list[Point]:
    return fitted(config, model())


def fitted(config: TrainConfig, net: nn.Module) -> list[Point]:
    points: list[Point] = []
    training.train(net, feed(), config, seed=0, device=CPU, watch=Watch(points.append))
    return points


def losses_of(points: Sequence[Point]) -> list[float]:
    return [point.values["train_loss"] for point in points]


def recipe(**values: Any) -> TrainConfig:
    return TrainConfig.model_validate({"steps": 5, "batch_size": 24, "lr": 0.01, **values})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_and_parts_share_out_a_global_batch(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(batch_size=12, accumulate=accumulate)
    monkeypatch.setattr(parallel, "world", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        found += training.shares(config)
    assert {len(part) for part in found} == {4 // accumulate}
    assert torch.equal(torch.cat(found).sort().values, torch.arange(12))


def test_partners_of_a_mixed_batch_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(batch_size=24, accumulate=2, mixup_alpha=1.0)
    monkeypatch.setattr(parallel, "world", lambda: 3)
    found = []
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        found += training.shares(config)
    assert torch.equal(torch.cat(found).sort().values, torch.arange(24))
    assert all(torch.equal(part + part.flip(0), torch.full_like(part, 23)) for part in found)
    monkeypatch.setattr(parallel, "world", lambda: 1)
    monkeypatch.setattr(parallel, "rank", lambda: 0)
    (alone,) = training.shares(TrainConfig(batch_size=24, mixup_alpha=1.0))
    assert torch.equal(alone, torch.arange(24))


def test_every_image_comes_once_an_epoch() -> None:
    stream = torch.cat(list(training.batches(50, TrainConfig(steps=20, batch_size=10), seed=0)))
    for epoch in stream.split(50):
        assert torch.equal(epoch.sort().values, torch.arange(50))
    assert not torch.equal(stream[:50], stream[50:100])


def test_batches_larger_than_the_data_set() -> None:
    (batch,) = training.batches(5, TrainConfig(steps=1, batch_size=12), seed=0)
    assert len(batch) == 12
    assert set(batch.tolist()) == set(range(5))


def test_schedule() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, lr=1.0)
    rates = [training.learning_rate(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)
    flat = TrainConfig(steps=100, warmup_steps=10, lr=1.0, schedule="none")
    assert {training.learning_rate(step, flat) for step in range(10, 100)} == {1.0}


def test_reports_cover_the_training_and_end_with_the_last_step() -> None:
    points = fit(TrainConfig(steps=47, batch_size=8, lr=0.01))
    assert [point.step for point in points] == [*range(2, 47, 2), 47]
    assert len(points) >= losses.REPORTS
    assert {point.steps for point in points} == {47}
    long = losses.Losses(TrainConfig(steps=100_000))
    assert long.every == losses.REPORT_STEPS


def test_the_loss_falls() -> None:
    points = fit(TrainConfig(steps=60, batch_size=25, lr=0.01))
    assert losses_of(points)[-1] < 0.5 * losses_of(points)[0]
    assert points[-1].values["lr"] < points[0].values["lr"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_learns(optimizer: str) -> None:
    config = TrainConfig.model_validate({"steps": 40, "batch_size": 25, "lr": 0.003, "optimizer": optimizer})
    found = losses_of(fit(config))
    assert found[-1] < found[0]


@pytest.mark.parametrize(
    "option",
    [
        {"clip_norm": 0.01},
        {"weight_decay": 0.5},
        {"momentum": 0.0},
        {"label_smoothing": 0.3},
        {"optimizer": "adam"},
        {"schedule": "none"},
        {"warmup_steps": 2},
        {"mixup_alpha": 0.8},
        {"cutmix_alpha": 1.0},
        {"erase_prob": 0.5},
        {"randaugment_n": 2},
        {"trivial_augment": True},
        {"crop_min": 0.3},
        {"flip": True},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_every_option_reaches_the_step(option: dict[str, Any]) -> None:
    changed = losses_of(fit(recipe(**option)))
    assert changed[-1] != plain_losses()[-1]
    assert changed == losses_of(fit(recipe(**option)))


@functools.cache
def plain_losses() -> list[float]:
    return losses_of(fit(recipe()))


def test_betas_reach_the_optimizer() -> None:
    for optimizer in ("adam", "adamw"):
        groups = [Group(list(model().parameters()))]
        made = training.make_optimizer(groups, recipe(optimizer=optimizer, beta1=0.8, beta2=0.95))
        assert made.defaults["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("more", [{}, {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "erase_prob": 0.5, "clip_norm": 1.0}])
def test_accumulation_changes_nothing(more: dict[str, Any]) -> None:
    whole, parts = model(), model()
    one, four = fitted(recipe(**more), whole), fitted(recipe(accumulate=4, **more), parts)
    assert losses_of(four) == pytest.approx(losses_of(one), rel=1e-5)
    for expected, found in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_clipping_limits_the_gradient_whatever_the_precision() -> None:
    for precision in ("fp32", "fp16"):
        net = model()
        before = [parameter.detach().clone() for parameter in net.parameters()]
        fitted(recipe(steps=1, lr=1.0, clip_norm=0.01, precision=precision), net)
        moved = torch.cat([(new - old).flatten() for new, old in zip(net.parameters(), before, strict=True)])
        assert moved.norm().item() == pytest.approx(0.01, rel=1e-2)


def test_fp16_is_close_to_fp32() -> None:
    assert losses_of(fit(recipe(precision="fp16"))) == pytest.approx(plain_losses(), rel=1e-2)


def test_a_step_that_overflows_is_skipped_and_counted() -> None:
    net = nn.Sequential(model(), Steep(1e3))
    config = recipe(steps=20, lr=1e-6, precision="fp16")
    found = training.train(net, feed(), config, seed=0, device=CPU, watch=Watch(lambda point: None))
    assert 0 < found.skipped < 20


def test_a_scale_that_collapses_is_divergence() -> None:
    with pytest.raises(training.DivergedError, match="fp16 cannot hold the gradients at any scale; a lower lr or"):
        fitted(recipe(steps=30, precision="fp16"), nn.Sequential(model(), Steep(1e30)))


class Steep(nn.Module):
    """The identity, with a gradient that is ``slope`` times too large."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (self.slope - 1) * (x - x.detach())


def test_epochs_become_steps() -> None:
    config = training.resolve(TrainConfig(epochs=1.5, batch_size=8), images=50)
    assert (config.steps, config.epochs) == (10, None)
    assert training.resolve(config, images=99) is config
    with pytest.raises(SpecError, match="epochs = 1 of 50 images: warmup_steps = 10 leaves nothing of steps = 7"):
        training.resolve(TrainConfig(epochs=1, batch_size=8, warmup_steps=10), images=50)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 exists on CUDA only")
def test_tf32_is_allowed_during_the_step_only() -> None:
    matmul = torch.backends.cuda.matmul
    with steps.tensor_cores(torch.device("cuda"), allowed=not matmul.allow_tf32):
        inside = matmul.allow_tf32
    assert matmul.allow_tf32 is not inside


def test_divergence_is_an_error_with_advice() -> None:
    with pytest.raises(training.DivergedError, match=r"loss is (nan|inf).* lower lr"):
        fit(TrainConfig(steps=50, batch_size=25, lr=1e38))


def test_validation_every_few_steps_but_not_after_the_last() -> None:
    points: list[Point] = []
    asked: list[int] = []
    reading = Reading(step=0, split="val", domain="target", probe="head", n=1, numbers={"top1": 1.0})

    def validate(step: int) -> list[Reading]:
        asked.append(step)
        return [reading]

    config = TrainConfig(steps=12, batch_size=8, lr=0.01, val_every=4)
    training.train(model(), feed(), config, seed=0, device=CPU, watch=Watch(points.append, validate))
    assert asked == [4, 8]
    assert [point.step for point in points if point.readings] == [4, 8]
    assert [point.readings for point in points if point.readings] == [[reading], [reading]]


def test_what_the_device_still_computes_counts_as_training_and_reports_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU steps are queued: who asks for the loss first would otherwise wait on their behalf."""
    clock = [0.0]

    def takes(seconds: float) -> Callable[[Any], None]:
        def advance(_: Any) -> None:
            clock[0] += seconds

        return advance

    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(loop, "wait", takes(2))
    watch = Watch(takes(100), lambda step: [])
    config = recipe(steps=4, val_every=2)
    run = training.train(model(), feed(), config, seed=0, device=torch.device("cpu"), watch=watch)
    assert clock[0] == 2 + 4 * (2 + 100)  # once before the first step, and before each of four reports
    assert run.seconds == 4 * 2
    assert run.images_per_second == run.images / run.seconds


def test_head_norm_is_a_batch_norm_without_parameters() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, torchs = HeadNorm(6), nn.BatchNorm1d(6, affine=False)
    for _ in range(3):
        x = 3 * torch.randn(16, 6, generator=generator) + 1
        assert torch.allclose(ours(x), torchs(x), atol=1e-5)
    assert torch.allclose(ours.mean, torchs.running_mean, atol=1e-5)
    assert not list(ours.parameters())


def test_auto_is_fp32_on_a_cpu_and_bf16_on_a_gpu() -> None:
    assert precision_on(CPU, "auto") == "fp32"
    assert precision_on(torch.device("cuda"), "auto") == "bf16"
    assert precision_on(torch.device("cuda"), "fp32") == "fp32"


DEPTH = 3


def micro(*, classes: int = 4, seed: int = 0, depth: int = DEPTH) -> Vit:
    """A small vision transformer whose every tensor is away from its initial value."""
    torch.manual_seed(seed)
    vit = VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=depth, num_heads=2, num_classes=classes)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return cast("Vit", vit)


def before() -> Vit:
    """What :func:`micro` stands for before training: other weights, and no head."""
    return micro(classes=0, seed=1).requires_grad_(False)


class Compiler:
    """A backend that compiles nothing, and counts what it is asked for and what is called."""

    def __init__(self) -> None:
        self.graphs = self.calls = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
        self.graphs += 1

        def called(*args: Any) -> Any:
            self.calls += 1
            return graph(*args)

        return called


@pytest.mark.parametrize("name", methods.names())
def test_compiled_blocks_train_the_same_and_blocks_that_are_alike_are_compiled_once(name: str) -> None:
    compiler, found = Compiler(), []
    for compiled in (False, True):
        method = methods.load(name, **({"p": 1} if name == "block_expansion" else {}))
        vit = method.apply(micro(depth=12))
        terms = training.terms_of(method, vit, lambda: micro(depth=12, classes=0, seed=1))
        if compiled:
            compile_blocks(vit, compiler)
        points: list[Point] = []
        watch = Watch(points.append)
        training.train(as_module(vit), feed(), recipe(steps=4), seed=0, device=CPU, watch=watch, terms=terms)
        found.append(losses_of(points))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert 0 < compiler.graphs <= 4 < 12 <= compiler.calls


def test_what_is_measured_is_not_compiled() -> None:
    vit, compiler, inputs = micro(), Compiler(), batch()[0]
    compile_blocks(vit, compiler)
    vit.train()(inputs)
    calls = compiler.calls
    assert calls == DEPTH
    with evaluation_mode(as_module(vit)):
        vit(inputs)
    assert compiler.calls == calls
    vit(inputs)
    assert compiler.calls == 2 * calls


def test_the_compiler_has_room_for_every_trial_of_a_slot() -> None:
    """Torch compiles a function eight times at the most; each of these has another shape."""
    for number in range(10):
        vit, compiler = micro(depth=2), Compiler()
        compile_blocks(vit, compiler)
        vit(torch.randn(2 + number, 3, 8, 8))
        assert compiler.calls == 2


def batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    some = images(count)
    return PLAIN(some.images), some.labels


def stepper(vit: Vit, method: Method, **values: Any) -> steps.Stepper:
    """Steps of plain SGD."""
    config = recipe(batch_size=8, lr=0.1, momentum=0.0, **values)
    return steps.Stepper(as_module(vit), config, CPU, training.terms_of(method, vit, before))


def halves(inputs: torch.Tensor, labels: torch.Tensor, parts: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(inputs.chunk(parts), labels.chunk(parts), strict=True))


def test_l2_sps_loss_is_its_formula() -> None:
    vit, start = micro(), before()
    own, old = {name: value.detach().double() for name, value in vit.named_parameters()}, start.state_dict()
    body = sum((value - old[name]).square().sum().item() for name, value in own.items() if name in old)
    head = sum(own[name].square().sum().item() for name in ("head.weight", "head.bias"))
    assert set(own) - set(old) == {"head.weight", "head.bias"}

    def loss(**values: float) -> float:
        found = methods.load("l2_sp", **values).loss(Step(1, vit, start, *batch()))
        assert found is not None
        return found.item()

    assert loss(alpha=0.3, beta=0.05) == pytest.approx(0.3 / 2 * body + 0.05 / 2 * head, rel=1e-5)
    vit.load_state_dict(old, strict=False)
    assert loss(alpha=0.3, beta=0.0) == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_l2_sps_pull_reaches_the_gradients_once_a_step(accumulate: int) -> None:
    vit, method = micro(), methods.load("l2_sp", alpha=0.3, beta=0.05)
    inputs, labels = batch()
    cross_entropy = F.cross_entropy(vit(inputs), labels)
    own, old = dict(vit.named_parameters()), before().state_dict()
    of_data = dict(zip(own, torch.autograd.grad(cross_entropy, list(own.values())), strict=True))
    penalty = method.loss(Step(1, vit, before(), inputs, inputs))
    assert penalty is not None
    pull = {name: 0.3 * (value - old[name]) if name in old else 0.05 * value for name, value in own.items()}
    expected = {name: value.detach() - 0.1 * (of_data[name] + pull[name].detach()) for name, value in own.items()}
    found = stepper(vit, method, accumulate=accumulate).step(1, halves(inputs, labels, accumulate))
    assert found.item() == pytest.approx((cross_entropy + penalty).item(), rel=1e-5)
    for name, value in own.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def expected_scale(name: str, decay: float) -> float:
    """By the formula: the i-th block from below, from 1, learns at lr * decay ** (L + 1 - i)."""
    if name.startswith("blocks."):
        return decay ** (DEPTH + 1 - (int(name.split(".")[1]) + 1))
    embeddings = name.startswith(("cls_token", "pos_embed", "patch_embed."))
    assert embeddings or name.startswith(("norm.", "head."))
    return decay ** (DEPTH + 1) if embeddings else 1.0


def test_layer_decay_covers_every_parameter_once_and_scales_its_learning_rate() -> None:
    vit, method = micro(), methods.load("layer_decay", decay=0.5)
    names = {id(parameter): name for name, parameter in vit.named_parameters()}
    groups = method.groups(vit)
    scales = [(names[id(parameter)], group.lr_scale) for group in groups for parameter in group.parameters]
    assert sorted(name for name, _ in scales) == sorted(names.values())
    assert dict(scales) == {name: expected_scale(name, 0.5) for name in names.values()}
    assert len(groups) == DEPTH + 2
    own, steps_of = dict(vit.named_parameters()), stepper(vit, method)
    for number, lr in ((1, 0.2), (2, 0.05)):
        old = {name: value.detach().clone() for name, value in own.items()}
        assert steps_of.set_lr(lr) == lr
        steps_of.step(number, [batch()])
        for name, value in own.items():
            assert value.grad is not None
            moved = old[name] - lr * expected_scale(name, 0.5) * value.grad
            assert torch.allclose(value, moved, rtol=1e-6, atol=1e-8), name


class LeavesOut(Full):
    """Groups without the first parameter."""

    def groups(self, vit: Vit) -> Sequence[Group]:
        return [Group(methods.trainable(vit)[1:])]


class HoldsTwice(Full):
    """Groups with the first parameter in both."""

    def groups(self, vit: Vit) -> Sequence[Group]:
        return [Group(methods.trainable(vit)), Group(methods.trainable(vit)[:1], 0.1)]


class TrainsWhatIsFrozen(Full):
    """A group with a parameter that is not trained."""

    def groups(self, vit: Vit) -> Sequence[Group]:
        return [Group([*methods.trainable(vit), vit.head.bias])]


@pytest.mark.parametrize("method", [LeavesOut(), HoldsTwice(), TrainsWhatIsFrozen()], ids=lambda m: type(m).__name__)
def test_groups_that_do_not_hold_every_trainable_parameter_once_are_refused(method: Method) -> None:
    vit = micro()
    vit.head.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=f"{type(method).__name__}.groups must hold every trainable parameter exactly"):
        training.terms_of(method, vit, before)
    assert sum(len(group.parameters) for group in training.terms_of(Full(), vit, before).groups) == len(
        methods.trainable(vit)
    )


def test_the_untouched_model_is_asked_for_by_methods_with_a_loss_only() -> None:
    asked: list[Vit] = []

    def untouched() -> Vit:
        asked.append(before())
        return asked[-1]

    for name in methods.names():
        vit = methods.load(name, **({"p": 1} if name == "block_expansion" else {})).apply(micro())
        terms = training.terms_of(methods.load(name), vit, untouched)
        assert (terms.loss is not None) == bool(asked) == (name == "l2_sp"), name
        asked.clear()


def fails(rank: int, world: int) -> None:
    """One rank raises, and the other waits for it."""
    if rank == 1:
        raise ValueError("this rank cannot go on")
    dist.barrier()


def sleeps(rank: int, world: int) -> None:
    if rank == 0:
        time.sleep(600)


def dies(rank: int, world: int) -> None:
    raise SystemExit(3)


def test_what_goes_wrong_on_a_rank_reaches_the_test(ranks: Ranks) -> None:
    """Of the tests' own ranks: none of them may be waited for in vain, or forgotten."""
    with pytest.raises(RankError, match=r"(?s)fails on rank 1 raised:.*in fails.*ValueError: this rank cannot go on"):
        ranks(fails)
    with pytest.raises(RankError, match=r"(?s)raised:.*SystemExit: 3"):
        ranks(dies, world=1)
    with pytest.raises(TimeoutError, match=r"sleeps on ranks \[0.*\]: no result in 2 s"):
        ranks(sleeps, seconds=2)
