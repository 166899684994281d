"""Requests: a flag asks for exactly what `--set` with its fields' names asks for, and says what they say.

Parametrized over the flags there are: a new one is tested without a further word, unless it takes a text that only
some values of are accepted; then :data:`VALUES` needs one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_origin

import pytest

import launch
from bench import models, resources
from bench.launching import preflight
from bench.launching.changes import Change, assignment
from bench.launching.launch import Launch
from bench.launching.request import FLAGS, PARTS, Flag, Request
from bench.spec import Backbone, LaunchOptions, SpecError, Study

VALUES = {
    "--backbone": "vit_tiny_patch16_224",
    "--weights": "random",
    "--image-size": "32",
    "--source": "digits",
    "--target": "cifar10",
    "--seeds": "4 5",
    "--address": "auto",
    "--gpus": "0",
    "--results": "elsewhere",
    "--tracking-uri": "sqlite:///other.db",
    "--optuna-storage": "searches.log",
    "--replay": "grid.csv",
}
"""A value of each flag that a launch accepts, as it is typed, and that is not the one it has without the flag."""


BY_OPTION = pytest.mark.parametrize("flag", FLAGS, ids=[flag.option for flag in FLAGS])


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """What another backbone needs, and takes longer to load than to be asked."""
    models.depth(Backbone(name=VALUES["--backbone"]))


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Four cores and no GPU, whatever the tests run on; a folder of its own."""
    monkeypatch.setattr(resources, "cores", lambda: 4)
    monkeypatch.setattr(resources, "gpus", lambda: 0)
    monkeypatch.chdir(tmp_path)


def words(flag: Flag) -> list[str]:
    """A value of a flag, as typed."""
    if flag.option in VALUES:
        return VALUES[flag.option].split()
    return [flag.values[-1]] if flag.values else [] if flag.kind is bool else ["2"]


def prepared(*arguments: str) -> Launch:
    parsed = launch.arguments().parse_strictly(["--study", "linear", *arguments])
    return preflight.prepare(Request.parsed(parsed))


def spelt_out(flag: Flag) -> list[str]:
    """The same with `--set`, field by field."""
    value = f"[{', '.join(words(flag))}]" if flag.several else [*words(flag), "true"][0]
    return [word for field in flag.fields for word in ("--set", f"{field}={value}")]


@BY_OPTION
def test_a_flag_is_short_for_set(flag: Flag) -> None:
    short = prepared(flag.option, *words(flag))
    assert short == prepared(*spelt_out(flag))
    assert short != prepared()


@BY_OPTION
def test_a_flag_and_set_may_agree_and_not_contradict_each_other(flag: Flag) -> None:
    """Neither wins without a word."""
    short = [flag.option, *words(flag)]
    other = [word for field in flag.fields for word in ("--set", f"{field}={default(flag)}")]
    assert prepared(*short, *spelt_out(flag)) == prepared(*short)
    for arguments in ([*short, *other], [*other, *short]):
        with pytest.raises(SpecError, match=rf"cannot be both .*{flag.option}.*: give one of them"):
            prepared(*arguments)


def test_set_may_not_contradict_itself() -> None:
    with pytest.raises(SpecError, match=r"trials cannot be both 3 \(--set trials\) and 4 \(--set trials\)"):
        prepared("--set", "trials=3", "--set", "trials=4")


def default(flag: Flag) -> str:
    """Another value than :data:`VALUES` has, in YAML; it is replaced before it is looked at."""
    return {tuple: "[7]", int: "3", bool: "false"}.get(
        get_origin(flag.kind) or flag.kind, (flag.values or ["other"])[0]
    )


@pytest.fixture(scope="module")
def help_text() -> str:
    """What `--help` says, in one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        return " ".join(launch.arguments().format_help().split())


@BY_OPTION
def test_help_says_of_a_flag_what_its_field_says(help_text: str, flag: Flag) -> None:
    described = flag.about.description
    assert described
    _, _, mine = help_text.partition(f" {flag.option} {'{' if flag.values else flag.metavar}")
    assert " ".join(described.split()) in mine
    said = mine[: mine.index("]", mine.index(" ".join(described.split()))) + 1]
    assert said.endswith(f"[{', '.join(flag.fields)}]")
    assert " --" not in said  # that is still the same flag


def test_help_shows_the_default_where_no_study_has_another(help_text: str) -> None:
    assert f"folder to write to (default: {LaunchOptions.model_fields['results'].default}) [results]" in help_text
    assert "DDP processes of one trial (default: 1) [workers]" in help_text
    assert f"{Study.model_fields['trials'].description} [trials]" in help_text


@pytest.mark.parametrize(
    ("flag", "value"),
    [(flag, value) for flag in FLAGS for value in (1.5, {}) if not (flag.kind is float and value == 1.5)],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_refused_by_the_flags_name(flag: Flag, value: Any) -> None:
    with pytest.raises(SpecError) as caught:
        flag.changes(value)
    assert str(caught.value).startswith(f"{flag.option} {value}: input should be ")
    assert "\n" not in str(caught.value)


def bad_values(flag: Flag) -> list[str]:
    """What is no number, not one of the words, or out of range; most texts are refused for what they name."""
    if flag.option == "--results":
        return [""]
    return (
        ["many", "-1"]
        if flag.kind in (int, float)
        else ["-1", "many"]
        if flag.several
        else ["nonsense"]
        if flag.values
        else []
    )


@pytest.mark.parametrize(("option", "value"), [(flag.option, value) for flag in FLAGS for value in bad_values(flag)])
def test_a_bad_value_is_refused_by_the_flags_name(capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    assert_refused(lambda: launch.main(["--study", "linear", "--dry-run", f"{option}={value}"]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith((f"error: {option} ", f"error: argument {option}: "))


def assert_refused(call: Callable[[], int]) -> None:
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == 2


@pytest.mark.parametrize("value", ["many", "1.5", "1,x"])
def test_a_list_that_is_none_is_refused_in_a_users_words(capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert_refused(lambda: launch.main(["--study", "linear", "--dry-run", "--seeds", value]))
    said = capsys.readouterr().err
    assert value in said
    assert "_numbers" not in said  # a function of ours, of which a user knows nothing


@BY_OPTION
def test_a_flag_sets_fields_that_exist_and_are_of_one_type(flag: Flag) -> None:
    for name in flag.fields:
        part, _, field = name.rpartition(".")
        owners = [PARTS[part]] if part else [owner for owner in (LaunchOptions, Study) if field in owner.model_fields]
        (owner,) = owners
        assert owner.model_fields[field].annotation == flag.about.annotation


def test_no_two_flags_set_one_field() -> None:
    fields = [field for flag in FLAGS for field in flag.fields]
    assert len(set(fields)) == len(fields)
    assert len({flag.option for flag in FLAGS}) == len(FLAGS)


def test_seeds_may_stand_with_spaces_or_commas() -> None:
    for typed in (["4", "5", "6"], ["4,5,6"], ["4,5", "6"], ["4,", "5,", "6"]):
        assert prepared("--seeds", *typed).suite.studies[0].seeds == (4, 5, 6)


def test_a_request_sorts_where_it_runs_from_what_it_computes() -> None:
    changes = [
        Change(("workers",), 2, "--num-workers"),
        Change(("train", "steps"), 4, "--set"),
        Change(("slots",), 1, "x"),
    ]
    request = Request.of("lora", "tiny", changes)
    assert request.options == LaunchOptions(workers=2, slots=1)
    assert [change.name for change in request.changes] == ["train.steps"]
    assert Request.of("lora").options == LaunchOptions()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("workers=0", "launch: workers = 0: "),
        ("workers=two", "launch: workers = 'two': "),
        ("slots=1.5", "launch: slots = 1.5: "),
        ("results=", "launch: results = None: "),
        ("results.x=1", "--set results.x: results is a value"),
    ],
)
def test_where_it_runs_is_checked_however_it_was_set(override: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        prepared("--set", override)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("arguments", [["--num-workers", "2"], ["--slots", "1"], ["--results", "other"]])
def test_where_it_runs_changes_nothing_of_what_it_computes(arguments: list[str]) -> None:
    plain, moved = prepared(), prepared(*arguments)
    assert (moved.suite, moved.benchmark) == (plain.suite, plain.benchmark)
    assert (moved.options, moved.plan, moved.results) != (plain.options, plain.plan, plain.results)


def test_a_launch_is_plain_data(tmp_path: Path) -> None:
    made = prepared("--seeds", "0", "1")
    assert made == prepared("--seeds", "0", "1")
    assert made.trials == made.suite.studies[0].trials + 2
    assert made.folder.path == tmp_path / "results" / "linear" / "tiny"
    assert made.tracking_uri == f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}"
    assert made.plan is not None
    assert (made.plan.slots, made.plan.workers, made.plan.gpu) == (4, 1, False)
    assert prepared("--address", "auto").plan is None  # known when the cluster is joined


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["target=digits", "target.name=shapes"], "target.name cannot be both digits"),
        (["source.name=shapes", "source=digits"], "source.name cannot be both shapes"),
        (["backbone=tiny", "backbone.name=vit_small_patch16_224"], "backbone.name cannot be both tiny"),
        (["search.lr.low=0.1", "search.lr={low: 0.01, high: 1}"], "search.lr.low cannot be both 0.1"),
        (["search.lr={low: 0.01, high: 1}", "search.lr.low=0.1"], "search.lr.low cannot be both"),
        (["train.steps=10", "train={steps: 5}"], "train.steps cannot be both 10"),
        (["train.steps=10", "train={batch_size: 5}"], "train.steps cannot be both 10"),
        (["data.views=2", "train.views=3"], "train.views cannot be both 2"),
    ],
)
def test_no_change_is_lost_to_another(changes: list[str], said: str) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(said)}"):
        Request.of("linear", changes=[assignment(change) for change in changes])


@pytest.mark.parametrize(
    "changes",
    [
        ["target=digits", "target.name=digits"],
        ["search.lr={low: 0.01, high: 1}", "search.lr.log=true"],
        ["search.lr.low=0.01", "search.lr={low: 0.01, high: 1}"],
        ["train={steps: 5}", "train.batch_size=8"],
    ],
)
def test_changes_that_go_together_are_laid_over_each_other(changes: list[str]) -> None:
    assert len(Request.of("linear", changes=[assignment(change) for change in changes]).changes) == 2
