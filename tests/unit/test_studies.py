"""Study files: what ships, what is read, what `--set` changes, and what is refused before anything is built."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from bench import methods, records
from bench.folder import LaunchFolder
from bench.launching import studies
from bench.launching.benchmarks import get
from bench.launching.changes import Change
from bench.spec import Backbone, Benchmark, Objective, Space, SpecError, Study, TargetData, make_trial

TINY = get("tiny")
DEPTH = 12
NAMES = studies.names()

LORA = """\
method: lora
search:
  rank: {choices: [4, 8]}
  lr: {low: 1e-3, high: 3E-1, log: true}
rows: [rank]
trials: 4
"""
LINEAR = "method: linear\nsearch:\n  lr: {low: 0.01, high: 1, log: true}\n"


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def one(folder: Path, text: str, *overrides: str) -> Study:
    (study,) = studies.load(str(file(folder, "mine", text)), overrides=overrides).studies
    return study


def refused(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        studies.check(one(folder, text, *overrides), TINY, depth=DEPTH)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_papers_studies_ship() -> None:
    assert {"block_expansion", "lora", "linear", "top_k", "full", "paper"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_ships_passes_on_tiny(name: str) -> None:
    suite = studies.load(name)
    assert suite.name == name
    for study in suite.studies:
        studies.check(study, TINY, depth=DEPTH)
        assert study.trials >= study.row_count
        assert len(study.seeds) >= (1 if study.protocol == "paper" else 3)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_ships_says_command_cost_and_expectation(name: str) -> None:
    lines = (studies.STUDIES / f"{name}.yaml").read_text().splitlines()
    header = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    text = "\n".join(line.removeprefix("#").strip() for line in header)
    assert f"python launch.py --study {name}" in text
    assert re.search(r"^Cost on benchmark tiny: .*\d+ minutes", text, re.MULTILINE)
    assert re.search(r"^Expected there: \w+", text, re.MULTILINE)
    assert studies.headline(name) == text.splitlines()[0] != ""


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_in_the_header_counts_what_would_run(name: str) -> None:
    members = studies.load(name).studies
    trials, rows = sum(s.trials for s in members), sum(s.confirmations // len(s.seeds) for s in members)
    text = (studies.STUDIES / f"{name}.yaml").read_text()
    found = re.search(r"Cost on benchmark tiny: (\d+) search trials \+ (\d+) rows? x (\d+) seeds?", text)
    assert found is not None
    assert [int(number) for number in found.groups()] == [trials, rows, len(members[0].seeds)]


def test_paper_gives_five_methods_the_same_budget() -> None:
    members = studies.load("paper").studies
    assert [study.method for study in members] == ["full", "top_k", "linear", "lora", "block_expansion"]
    assert len({(study.trials, study.seeds, study.objective, study.scheduler) for study in members}) == 1
    assert all(study.train == {} and study.fixed == {} for study in members)
    assert sum(study.row_count for study in members) == 11


def test_paper_searches_what_the_single_studies_search() -> None:
    for member in studies.load("paper").studies:
        (alone,) = studies.load(member.name).studies
        if member.method == "top_k":  # the paper has top-3 only
            assert member.search["k"].choices == (3,)
            assert member.search["lr"] == alone.search["lr"]
        elif member.method == "linear":  # beside as many steps as the others', as many as it needs
            assert member.search == {**alone.search, "budget": Space(choices=(1, 10))}
        else:
            assert (member.search, member.rows) == (alone.search, alone.rows)


def test_floats_are_read_as_yaml_1_2_writes_them(tmp_path: Path) -> None:
    space = one(tmp_path, LORA).search["lr"]
    assert (space.low, space.high) == (0.001, 0.3)
    study = one(tmp_path, LORA + "fixed: {weight_decay: 1e-4, momentum: .5, warmup_steps: 1, optimizer: '1e-3'}\n")
    assert study.fixed == {"weight_decay": 1e-4, "momentum": 0.5, "warmup_steps": 1, "optimizer": "1e-3"}
    assert all(isinstance(study.fixed[name], float) for name in ("weight_decay", "momentum"))
    assert type(study.fixed["warmup_steps"]) is int


def test_a_study_outside_the_folder_is_named_after_its_file(tmp_path: Path) -> None:
    suite = studies.load(str(file(tmp_path, "mine", LINEAR)))
    assert suite.name == "mine"
    assert [study.name for study in suite.studies] == ["mine"]


def test_changes_replace_whole_fields_of_every_member() -> None:
    """As values, which is what flags of the command line give, and as text."""
    for changes in (
        [Change(("trials",), 4, "--trials"), Change(("seeds",), [7], "--seeds")],
        ["trials=4", "seeds=[7]"],
    ):
        suite = studies.load("paper", overrides=changes)
        assert {(study.trials, study.seeds) for study in suite.studies} == {(4, (7,))}


def test_an_unknown_study_lists_what_there_is() -> None:
    with pytest.raises(SpecError, match=r"unknown study 'lorra'.*known: block_expansion, full"):
        studies.load("lorra")


@pytest.mark.parametrize("name", ["missing.yaml", "nowhere/missing.yml"])
def test_a_file_that_is_not_there_is_called_a_file(name: str) -> None:
    with pytest.raises(SpecError, match=f"there is no study file {name}: check its path"):
        studies.load(name)


def test_broken_yaml_names_file_and_line(tmp_path: Path) -> None:
    path = file(tmp_path, "mine", "method: lora\nsearch:\n  lr: {low: 0.1, high: 1\nrows: []\n")
    with pytest.raises(SpecError) as caught:
        studies.load(str(path))
    assert str(caught.value).startswith(f"{path}, line 4: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"method: lora\n\x00", id="zero byte"),
        pytest.param("# \xe9\nmethod: lora\n".encode("latin-1"), id="latin-1"),
        pytest.param(b"method: lora\ntrials: 2020-13-45\n", id="impossible date"),
        pytest.param(b"method: lora\nsearch:\n\tlr: 1\n", id="tab"),
        pytest.param(b"method: lora\n---\nmethod: full\n", id="two documents"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(SpecError) as caught:
        studies.load(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- lora\n", "lora\n"])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    path = file(tmp_path, "mine", text)
    with pytest.raises(SpecError, match=f"{re.escape(str(path))}: a study is a mapping of fields"):
        studies.load(str(path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("method: lora", "method: lorra", "unknown method 'lorra'; did you mean 'lora'?"),
        ("method: lora", "method: 3", "method = 3: "),
        ("method: lora\n", "", "field 'method' is missing"),
        ("trials:", "trails:", "unknown field 'trails'; did you mean 'trials'?"),
        ("rank:", "ranck:", "unknown field of lora 'search.ranck'; did you mean 'search.rank'?"),
        ("  lr:", "  learn:", "unknown field of lora 'search.learn'"),
        ("low:", "lo:", "unknown field 'search.lr.lo'; did you mean 'search.lr.low'?"),
        ("[4, 8]", "[4, '8']", "lora: rank = '8': "),
        ("[4, 8]", "[4, 8.0]", "lora: rank = 8.0: "),
        ("[4, 8]", "[0, 8]", "lora: rank = 0: "),
        ("[4, 8]", "[4, 4]", "choices must name at least one value, each once"),
        ("1e-3", "0", "a log space needs low above 0"),
        ("1e-3", "0.5", "low = 0.5 must be below high = 0.3"),
        ("trials: 4", "trials: four", "trials = 'four': "),
        ("rows: [rank]", "rows: [lr]", "rows names 'lr'"),
        ("rows: [rank]", "fixed: {dropout: 1.0}", "lora: dropout = 1.0: "),
        ("rows: [rank]", "fixed: {rank: 4}", "'rank' is both searched and fixed"),
        ("rows: [rank]", "fixed: {lr_: 4}", "unknown field of lora 'fixed.lr_'; did you mean 'fixed.lr'?"),
        ("rows: [rank]", "train: {step: 4}", "unknown field 'step'; did you mean 'steps'?"),
        ("rows: [rank]", "train: {steps: 1e3}", "steps = 1000.0: "),
        ("rows: [rank]", "train: {steps: 0}", "steps = 0: "),
        ("rows: [rank]", "scheduler: asha", "scheduler asha needs readings to compare; set train.val_every"),
        ("rows: [rank]", "name: other\nname2: x", "unknown field 'name2'"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in LORA
    assert said in refused(tmp_path, LORA.replace(old, new))


@pytest.mark.parametrize("part", ["search", "fixed", "train"])
def test_a_part_that_is_no_mapping_is_named(tmp_path: Path, part: str) -> None:
    text = LINEAR if part != "search" else "method: linear\n"
    assert f"{part} = 5: " in refused(tmp_path, f"{text}{part}: 5\n")


def test_p_must_divide_the_depth(tmp_path: Path) -> None:
    text = "method: block_expansion\nsearch:\n  p: {choices: [1, 5]}\n"
    assert "p = 5 does not divide the backbone's 12 blocks" in refused(tmp_path, text)


def test_every_integer_of_an_interval_is_checked(tmp_path: Path) -> None:
    text = "method: block_expansion\nsearch:\n  p: {low: 1, high: 6}\n"
    assert "p = 5 does not divide the backbone's 12 blocks" in refused(tmp_path, text)


def test_the_end_of_an_interval_is_checked_too(tmp_path: Path) -> None:
    text = LINEAR + "  momentum: {low: 0.5, high: 1.5}\n"
    assert "momentum = 1.5: " in refused(tmp_path, text)


def test_the_batch_must_divide_among_the_workers() -> None:
    (study,) = studies.load("linear").studies
    studies.check(study, TINY, depth=DEPTH, workers=2)
    with pytest.raises(SpecError, match="batch_size = 64 does not divide among --num-workers 3"):
        studies.check(study, TINY, depth=DEPTH, workers=3)


def test_corners_are_all_combinations() -> None:
    (study,) = studies.load("block_expansion").studies
    corners = studies.corners(study, TINY)
    assert [(t.fields["p"], t.train.lr) for t in corners] == [(p, lr) for p in (1, 2, 3, 4) for lr in (0.0003, 0.3)]
    assert len({trial.id for trial in corners}) == 8


def test_overrides_reach_every_place_of_a_single_study(tmp_path: Path) -> None:
    study = one(
        tmp_path,
        LORA,
        "train.steps=100",
        "search.lr.high=1e-1",
        "search.rank.choices=[16, 32]",
        "fixed.dropout=0.1",
        "trials=6",
        "objective=forgetting",
        "seeds=[5]",
        "train.clip_norm=null",
    )
    assert study.train == {"steps": 100, "clip_norm": None}
    assert study.search["lr"].high == 0.1
    assert study.search["lr"].low == 0.001
    assert study.search["rank"].choices == (16, 32)
    assert study.fixed == {"dropout": 0.1}
    assert (study.trials, study.objective, study.seeds) == (6, Objective(quantity="forgetting"), (5,))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.steps", "must have the form name=value"),
        ("=3", "must have the form name=value"),
        ("train.steps=[1", "is not a YAML value"),
        ("train.steps=2020-13-45", "is not a YAML value"),
        ("train.step=3", "did you mean 'steps'?"),
        ("trails=3", "did you mean 'trials'?"),
        ("search.lr.hi=3", "did you mean 'search.lr.high'?"),
        ("search.ranck.low=3", "did you mean 'search.rank'?"),
        ("fixed.dropot=0.1", "did you mean 'fixed.dropout'?"),
        ("trials=many", "trials = 'many': "),
        ("train.steps=1.5", "steps = 1.5: "),
        ("search.lr.low=9", "low = 9 must be below high = 0.3"),
        ("method=lorra", "did you mean 'lora'?"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(tmp_path: Path, override: str, said: str) -> None:
    assert said in refused(tmp_path, LORA, override)


@pytest.mark.parametrize("override", ["trials.x=3", "rows.x=3", "search.lr.high.x=3", "train.steps.x=3", "a..b=3"])
def test_an_override_below_a_value_is_refused(tmp_path: Path, override: str) -> None:
    refused(tmp_path, LORA + "train: {steps: 5}\n", override)


def test_overrides_of_a_suite_go_where_they_fit() -> None:
    suite = studies.load("paper", overrides=["search.p.choices=[1, 2]", "search.lr.high=0.2", "train.steps=9"])
    found = {study.method: study for study in suite.studies}
    assert found["block_expansion"].search["p"].choices == (1, 2)
    assert all("p" not in study.search for name, study in found.items() if name != "block_expansion")
    assert {study.search["lr"].high for study in suite.studies} == {0.2}
    assert all(study.train == {"steps": 9} for study in suite.studies)


def test_a_fixed_field_of_one_method_leaves_the_others_alone() -> None:
    suite = studies.load("paper", overrides=["fixed.dropout=0.1", "fixed.momentum=0.5"])
    assert {study.method: study.fixed for study in suite.studies} == {
        name: {"momentum": 0.5, **({"dropout": 0.1} if name == "lora" else {})}
        for name in ("full", "top_k", "linear", "lora", "block_expansion")
    }


@pytest.mark.parametrize("override", ["search.ranck.choices=[1]", "fixed.dropot=0.1", "search.dropout.low=0"])
def test_an_override_that_no_member_has_is_refused(override: str) -> None:
    with pytest.raises(SpecError, match=r"--set .*: no study of the suite 'paper' has this field"):
        studies.load("paper", overrides=[override])


@pytest.mark.parametrize("override", ["trails=3", "train.step=3", "trials=0", "search.lr.hihg=1"])
def test_an_override_of_a_suite_is_checked_like_a_file(override: str) -> None:
    with pytest.raises(SpecError, match=r"did you mean|trials = 0"):
        for study in studies.load("paper", overrides=[override]).studies:
            studies.check(study, TINY, depth=DEPTH)


def test_an_empty_part_of_a_suite_is_refused_with_overrides_too(tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        studies.load(str(file(tmp_path, "two", "suite: [lora]\nsearch:\n")), overrides=["search.p.low=1"])


def test_loading_twice_is_not_changed_by_overrides() -> None:
    studies.load("paper", overrides=["search.lr.high=0.2"])
    assert studies.load("full").studies[0].search["lr"].high == 0.1


def test_a_suite_takes_members_from_its_folder(tmp_path: Path) -> None:
    file(tmp_path, "lora", LORA)
    file(tmp_path, "linear", LINEAR)
    file(tmp_path, "all", "suite: [lora, linear]\ntrials: 5\n")
    suite = studies.load("all", folder=tmp_path)
    assert [(study.name, study.trials) for study in suite.studies] == [("lora", 5), ("linear", 5)]
    assert studies.names(tmp_path) == ["all", "linear", "lora"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("suite: []\n", "suite must be a list of study names"),
        ("suite: lora\n", "suite must be a list of study names"),
        ("suite: [3]\n", "suite must be a list of study names"),
        ("suite: [lorra]\n", "unknown study 'lorra'; did you mean 'lora'?"),
        ("suite: [lora, again]\n", "two studies of one suite use the method 'lora'"),
        ("suite: [lora]\ntrails: 3\n", "did you mean 'trials'?"),
        ("suite: [all]\n", "study 'all'"),
        ("suite: [lora, lora]\n", "suite must be a list of study names, each once"),
        ("suite: [{lora: {serach.lr.high: 1.0}}]\n", "unknown field 'serach'; did you mean 'search'?"),
        ("suite: [{lora: 3}]\n", "suite must be a list of study names"),
    ],
)
def test_a_suite_that_cannot_be_run_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file(tmp_path, "lora", LORA)
    file(tmp_path, "again", LORA)
    file(tmp_path, "all", text)
    with pytest.raises(SpecError, match=re.escape(said)):
        studies.load("all", folder=tmp_path)


def test_a_suite_outside_the_folder_finds_its_members_in_it(tmp_path: Path) -> None:
    suite = studies.load(str(file(tmp_path, "two", "suite: [full, linear]\n")))
    assert [study.name for study in suite.studies] == ["full", "linear"]


def test_every_method_has_a_study() -> None:
    assert {study.method for name in NAMES for study in studies.load(name).studies} == set(methods.names())


def test_a_suite_can_change_its_members(tmp_path: Path) -> None:
    file(tmp_path, "lora", LORA)
    file(tmp_path, "linear", LINEAR)
    file(tmp_path, "all", "suite:\n  - lora: {search.lr.high: 0.2, trials: 3}\n  - linear\n")
    lora, linear = studies.load("all", folder=tmp_path, overrides=["train.steps=9"]).studies
    assert (lora.search["lr"].high, lora.trials, lora.train) == (0.2, 3, {"steps": 9})
    assert (linear.trials, linear.train) == (12, {"steps": 9})


def test_the_papers_protocol_has_one_seed_unless_more_are_asked_for() -> None:
    for study in studies.load("paper", overrides=["protocol=paper"]).studies:
        assert (study.protocol, study.seeds) == ("paper", (0,))
    (study,) = studies.load("lora", overrides=["protocol=paper", "seeds=[3, 4]"]).studies
    assert study.seeds == (3, 4)
    assert {study.seeds for study in studies.load("paper_audit").studies} == {(0, 1, 2)}  # its file asks for them
    found = {study.method: study for study in studies.load("paper_protocol").studies}
    assert {name: len(study.dealt_points) for name, study in found.items()} == {
        "full": 3,
        "top_k": 3,
        "linear": 3,
        "lora": 9,
        "block_expansion": 12,
    }


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["train.epochs=2", "scheduler=asha", "train.val_every=5"],
            "asha needs to know the last step; set train.steps",
        ),
        (["train.accumulate=2"], "accumulate = 2 would split the batch whose statistics the head norm takes"),
        (["train.mixup_alpha=0.5", "train.batch_size=9"], "batch_size = 9 does not divide among pairs of images"),
        (["train.beta1=0.8"], "beta1 = 0.8 has no effect with optimizer = sgd"),
        (["train.start_from=nowhere.json"], "there is no record /"),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    assert said in refused(tmp_path, LINEAR, *overrides)


def test_mixed_pairs_are_shared_out_among_the_workers(tmp_path: Path) -> None:
    study = one(tmp_path, LINEAR, "train.mixup_alpha=0.5", "train.batch_size=12")
    studies.check(study, TINY, depth=DEPTH, workers=3)
    with pytest.raises(SpecError, match="batch_size = 12 does not divide among --num-workers 4 x pairs of images"):
        studies.check(study, TINY, depth=DEPTH, workers=4)


def test_a_start_is_checked_and_gets_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("train.start_from=probe.json", "fixed.start_from=probe.json"):
        study = one(tmp_path, LINEAR, place)
        assert {**study.train, **study.fixed} == {"start_from": str(tmp_path / "probe.json")}
    several = one(tmp_path, LINEAR, "search.start_from.choices=[a.json, null]")
    assert several.search["start_from"].choices == (str(tmp_path / "a.json"), None)


def test_a_start_with_another_backbone_or_without_weights_is_refused(tmp_path: Path) -> None:
    trial = studies.corners(one(tmp_path, LINEAR), TINY)[0]
    path = records.of(trial, status="stopped").write(tmp_path / "x" / "records")
    assert "only confirmed trials that succeeded keep their weights" in refused(
        tmp_path, LINEAR, f"train.start_from={path}"
    )
    weights = LaunchFolder.holding(path).keep_tensors(trial.id, b"")
    study = one(tmp_path, LINEAR, f"train.start_from={weights}")
    studies.check(study, TINY, depth=DEPTH)
    other = TINY.model_copy(update={"backbone": Backbone(name="tiny", weights="random")})
    with pytest.raises(SpecError, match=r"start_from = .* has the backbone tiny, not tiny \(random\)"):
        studies.check(study, other, depth=DEPTH)


@pytest.mark.parametrize("value", ["0.001", "0,01", "[1]"])
@pytest.mark.parametrize("study", ["linear", "paper"])
def test_a_setting_that_the_search_overrules_is_refused(study: str, value: str) -> None:
    with pytest.raises(
        SpecError, match=r"train\.lr = .* has no effect, as lr is searched: set search\.lr={choices: \["
    ):
        studies.load(study, overrides=[f"train.lr={value}"])


def test_a_setting_that_another_one_overrules_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, LORA, "fixed.batch_size=8", "train.batch_size=4")
    assert "train.batch_size = 4 has no effect, as fixed.batch_size is set" in said
    for overrides in (["train.steps=5", "train.epochs=2"], ["fixed.epochs=2", "train.steps=5"]):
        study = one(tmp_path, LORA, *overrides)
        with pytest.raises(SpecError, match="steps = 5 has no effect with epochs = 2"):
            studies.check(study, TINY, depth=DEPTH)


@pytest.mark.parametrize("text", [LORA + "trials: 3\ntrials: 4\n", LORA.replace("method:", "method: full\nmethod:")])
def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    assert re.search(r"line \d+: this is not YAML: the key '\w+' is there twice", refused(tmp_path, text))


def test_a_key_that_is_there_twice_in_an_override_is_refused(tmp_path: Path) -> None:
    assert "the key 'low' is there twice" in refused(tmp_path, LORA, "search.lr={low: 1, low: 2, high: 3}")


def test_the_type_of_a_range_is_that_of_its_field(tmp_path: Path) -> None:
    study = one(tmp_path, LORA, "search.lr={low: 1, high: 10}", "search.dropout={low: 0, high: 0.5}")
    for name in ("lr", "dropout"):
        assert {type(study.search[name].low), type(study.search[name].high)} == {float}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.batch_size={low: 0.5, high: 8}", "search.batch_size is a whole number, and its range is 0.5 to 8"),
        ("search.batch_size={low: 4.0, high: 8.0}", "is a whole number"),
        ("search.optimizer={low: 0, high: 1}", "search.optimizer is no number, so it has no range: name its choices"),
        ("search.targets={low: 0, high: 1}", "search.targets is no number"),
        ("search.compile={low: 0, high: 1}", "search.compile is no number"),
    ],
)
def test_a_range_that_does_not_suit_its_field_is_refused(tmp_path: Path, override: str, said: str) -> None:
    assert said in refused(tmp_path, LORA, override)


@pytest.mark.parametrize(
    "override",
    [
        "seeds=[4294967296]",
        "search_seed=4294967296",
        "train.steps=1000000000000",
        "train.batch_size=1000000000000",
        "train.lr=.nan",
        "fixed.weight_decay=.inf",
        "search.lr.low=.nan",
        "search.lr.high=1e400",
        "search.lr.choices=[.nan]",
        "search.rank.choices=[1000000000000]",
        f"search.rank={{low: 1, high: {10**400}}}",
        "trials=1000000000000",
    ],
)
def test_what_no_trial_could_do_is_refused_before(tmp_path: Path, override: str) -> None:
    with pytest.raises(SpecError) as caught:
        changes = [override] if "train.lr" not in override else ["search={}", "rows=[]", override]
        studies.check(one(tmp_path, LORA, *changes), TINY, depth=DEPTH)
    assert len(str(caught.value)) < 400


def test_the_inside_of_a_wide_range_is_checked_too(tmp_path: Path) -> None:
    """Both ends divide among two workers, and not what lies between."""
    study = one(tmp_path, LORA, "search.batch_size={low: 32, high: 512}")
    with pytest.raises(SpecError, match="batch_size = 33 does not divide among --num-workers 2"):
        studies.check(study, TINY, depth=DEPTH, workers=2)


def test_a_space_of_many_choices_is_checked_in_no_time(tmp_path: Path) -> None:
    hundredths = [value / 100 for value in range(1, 61)]
    names = ("momentum", "weight_decay", "dropout", "erase_prob", "lr")
    many = [f"search.{name}={{choices: {hundredths}}}" for name in names]
    study = one(tmp_path, LORA, *many)
    trials = studies.corners(study, TINY)
    assert len(trials) == studies.POINTS
    for name in ("momentum", "dropout", "lr", "rank"):
        assert {trial.hyperparameters[name] for trial in trials} == set(study.search[name].choices or ())
    bad = one(tmp_path, LORA, *many, f"search.erase_prob.choices={[*hundredths, 2]}")
    with pytest.raises(SpecError, match="erase_prob = 2"):
        studies.check(bad, TINY, depth=DEPTH)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.val_every=200"], "val_every = 200 must be below steps = 150"),
        (["fixed.val_every=150"], "val_every = 150 must be below steps = 150"),
        (["fixed.val_every=5", "fixed.steps=5"], "val_every = 5 must be below steps = 5"),
        (["search.steps.choices=[20, 40]", "train.val_every=5"], "fix steps instead of searching it"),
        (["search.val_every.choices=[2, 4]"], "fix val_every instead of searching it"),
    ],
)
def test_rungs_that_cannot_be_compared_are_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    study = one(tmp_path, LORA, "scheduler=asha", *overrides)
    with pytest.raises(SpecError, match=said):
        studies.check(study, TINY, depth=DEPTH)


@pytest.mark.parametrize(
    ("belief", "said"),
    [
        ("[{values: {lr: 5}}]", "beliefs: lr = 5 does not lie in search.lr: widen that"),
        ("[{values: {dropout: 0.1}}]", "beliefs: dropout is not searched: name some of rank, lr"),
        ("[{values: {rank: 5}}]", "beliefs: rank = 5 does not lie in search.rank"),
        ("[{values: {rank: 4.0}}]", "beliefs: rank = 4.0 does not lie in search.rank"),
        (
            "[{values: {lr: 0.01}, weight: 0.7}, {values: {lr: 0.1}}]",
            "beliefs have weights of 1.2 together",
        ),
        ("[{values: {lr: 0.01}, weight: 2}]", "weight = 2"),
        ("[{values: {}}]", "values"),
        ("[{record: nowhere.json}]", "nowhere.json"),
        ("[{record: 7}]", "a belief has either values or the file of a record"),
    ],
)
def test_a_belief_that_says_nothing_of_the_space_is_refused(tmp_path: Path, belief: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        one(tmp_path, LORA, f"beliefs={belief}")
    with pytest.raises(SpecError, match="sampler qmc tries the same values whatever is believed"):
        one(tmp_path, LORA, "beliefs=[{values: {lr: 0.01}}]", "sampler=qmc")


def test_an_earlier_studys_best_is_believed(tmp_path: Path) -> None:
    earlier = make_trial(
        one(tmp_path, LORA), TINY, {"rank": 4, "lr": 0.02}, launch="old", label="best", seed=0, phase="search"
    )
    path = records.of(earlier, status="stopped").write(tmp_path / "records")
    (belief,) = one(tmp_path, LORA, f"beliefs=[{{record: {path}, weight: 0.25}}]").beliefs
    assert belief.values == {"rank": 4, "lr": 0.02}
    assert (belief.weight, belief.source) == (0.25, "old on tiny: lora-best")
    plain, believing = one(tmp_path, LORA), one(tmp_path, LORA, "beliefs=[{values: {rank: 4, lr: 0.02}}]")
    assert believing.search_context.beliefs == ("rank = 4, lr = 0.02 (weight 0.5)",)
    assert len({plain.search_context, believing.search_context}) == 2
    assert "beliefs" not in plain.search_context.model_dump(mode="json")
    with pytest.raises(SpecError, match="is a record of lora: name one of this method"):
        one(tmp_path, LINEAR, f"beliefs=[{{record: {path}}}]")


def test_readings_that_are_no_ends_of_shorter_trainings_are_no_candidates(tmp_path: Path) -> None:
    asked = ["candidates=every", "objective=[target_accuracy, source_accuracy]"]
    for overrides, said in (
        (["train.val_every=10"], "needs a constant learning rate: set train.schedule=none"),
        (["train.schedule=none"], "needs readings on the way: set train.val_every"),
        (["train.schedule=none", "train.val_every=5", "train.epochs=1"], "counts steps: set train.steps instead"),
        (["train.schedule=none", "train.val_every=5", "search.steps.choices=[20, 40]"], "do not search steps"),
        (["train.schedule=none", "train.val_every=5", "search.budget.choices=[1, 2]"], "do not search budget"),
        (
            ["train.schedule=none", "train.val_every=5", "search.budget.choices=[1, 2]", "rows=[budget]"],
            "do not search budget",
        ),
        (["train.schedule=none", "protocol=paper"], "needs readings on the way: set protocol clean"),
    ):
        with pytest.raises(SpecError, match=said):
            studies.check(one(tmp_path, LORA, *asked, *overrides), TINY, depth=DEPTH)
    studies.check(one(tmp_path, LORA, *asked, "train.schedule=none", "train.val_every=10"), TINY, depth=DEPTH)
    with pytest.raises(SpecError, match="the objective mean has none: name several scores"):
        one(tmp_path, LORA, "candidates=every")


def test_a_start_on_other_classes_is_refused_before_anything_starts(tmp_path: Path) -> None:
    trial = studies.corners(one(tmp_path, LINEAR), TINY)[0]
    path = records.of(trial, status="stopped").write(tmp_path / "x" / "records")
    head = save({"head.weight": np.zeros((10, 64), np.float32)})
    LaunchFolder.holding(path).keep_tensors(trial.id, head)
    study = one(tmp_path, LINEAR, f"train.start_from={path}")
    studies.check(study, TINY, depth=DEPTH)  # digits again
    studies.check(study, on("cifar10"), depth=DEPTH)  # as many classes
    with pytest.raises(SpecError, match="has a head for 10 classes, of digits, and cifar100 has 100: choose a trial"):
        studies.check(study, on("cifar100"), depth=DEPTH)
    without = TINY.model_copy(update={"head_norm": False})
    with pytest.raises(SpecError, match="was trained with head_norm = true: train with that instead of"):
        studies.check(study, without, depth=DEPTH)
    LaunchFolder.holding(path).keep_tensors(trial.id, head[:50])
    with pytest.raises(SpecError, match=r"the checkpoint .*\.safetensors cannot be read: "):
        studies.check(study, on("cifar100"), depth=DEPTH)


def on(target: str) -> Benchmark:
    return TINY.model_copy(update={"target": TargetData(name=target)})


def test_both_ends_of_every_range_meet_however_large_the_space(tmp_path: Path) -> None:
    """Ten steps of which ten warm up cannot be trained, and random points would hardly meet them."""
    ranges = {"steps": (10, 1000), "warmup_steps": (0, 10), "k": (1, 12)}
    wide = [f"search.{name}={{low: {low}, high: {high}}}" for name, (low, high) in ranges.items()]
    study = one(tmp_path, "method: top_k\nsearch: {lr: {low: 0.001, high: 0.1}}\n", *wide)
    with pytest.raises(SpecError, match="warmup_steps = 10 leaves nothing of steps = 10"):
        studies.check(study, TINY, depth=12)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("{train.steps: 10, train: {steps: 20}}", "train.steps cannot be both 10"),
        ("{search.lr.low: 0.1, search: {lr: {low: 0.2, high: 0.5}}}", "search.lr.low cannot be both 0.1"),
        ("{search.lr: {low: 0.1, high: 1}, search: {momentum: {choices: [0.5]}}}", "search.lr cannot be both"),
    ],
)
def test_a_suite_may_not_contradict_itself(tmp_path: Path, inside: str, said: str) -> None:
    (tmp_path / "both.yaml").write_text(f"suite:\n  - linear: {inside}\n")
    with pytest.raises(SpecError, match=re.escape(said)):
        studies.load(str(tmp_path / "both.yaml"))


@pytest.mark.parametrize(("text", "number"), [("010", 10), ("0x10", 16), ("0o10", 8), ("1_000", 1000), ("+5", 5)])
def test_integers_are_read_as_people_write_them(text: str, number: int) -> None:
    assert studies.load("linear", overrides=[f"trials={text}"]).studies[0].trials == number


def test_sixty_to_the_power_is_no_integer() -> None:
    with pytest.raises(SpecError, match="1:30"):
        studies.load("linear", overrides=["trials=1:30"])


def test_advice_can_be_followed_as_it_stands() -> None:
    with pytest.raises(SpecError, match=re.escape('search.lr={choices: ["0,01"]}')):
        studies.load("linear", overrides=["train.lr=0,01"])


def test_the_word_on_trials_that_comes_last_counts(tmp_path: Path) -> None:
    """A suite's over a member's, the command line's over a file's; two of one place contradict each other."""
    assert [one.trials for one in studies.load("block_expansion", overrides=["trials_per_row=3"]).studies] == [12]
    file(tmp_path, "one", LORA)
    suite = str(file(tmp_path, "both", "suite: [one, {linear: {trials: 7}}]\ntrials_per_row: 2\n"))
    file(tmp_path, "linear", LINEAR)
    lora, linear = studies.load(suite, folder=tmp_path).studies
    assert (lora.trials, lora.trials_per_row) == (2 * lora.row_count, 2)
    assert (linear.trials, linear.trials_per_row) == (7, None)
    changed = studies.load(suite, overrides=["trials=5"], folder=tmp_path).studies
    assert {(one.trials, one.trials_per_row) for one in changed} == {(5, None)}
    with pytest.raises(SpecError, match="trials = 5 and trials_per_row = 2 contradict each other: set only one"):
        studies.load("lora", overrides=["trials=5", "trials_per_row=2"])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("wise_ft", "fixed.alphas=[0.5, 0.5000001]", "each share once"),
        ("lora", "fixed.alpha=1e30", "less than or equal to 1000000"),
        ("l2_sp", "search.alpha={choices: [1e15]}", "less than or equal to 1000000"),
    ],
)
def test_values_that_no_trial_survives_are_refused(name: str, change: str, said: str) -> None:
    (study,) = studies.load(name, overrides=[change]).studies
    with pytest.raises(SpecError, match=said):
        studies.check(study, TINY, depth=12)
