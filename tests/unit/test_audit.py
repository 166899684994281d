"""The audit of the paper's protocol: what each choice adds, from records alone; and docs/audit.md, made of them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import __main__
from bench.folder import LaunchFolder
from bench.launching import benchmarks, studies
from bench.readings import HEAD, KNN, Answers, Reading
from bench.records import Record
from bench.reporting import audit_page
from bench.reporting.audit import NEEDED, Audit, audit, unsteady_pairs
from bench.spec import SearchContext

ROOT = Path(__file__).resolve().parents[2]
IMAGES, QUERIES, VAL = 200, 100, 100
STEPS = (10, 20, 30)

Make = Callable[..., Record]


def right(count: int, n: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The first so many of n images, which are the easiest."""
    return np.arange(n) < count


def reading(step: int, split: str, domain: str, count: int, images: str) -> Reading:
    n = {"test": IMAGES, "val": VAL}[split] if domain == "target" else QUERIES
    answers = right(count, n)
    return Reading(
        step=step,
        split=split,
        domain=domain,
        probe=HEAD if domain == "target" else KNN,
        n=n,
        numbers={"top1": 100 * float(answers.mean())},
        answers=Answers.of(f"{images} {domain}", answers) if split == "test" else None,
    )


def before_and_after(step: int, source: int, images: str) -> list[Reading]:
    return [reading(at, "test", "source", count, images) for at, count in ((0, 95), (step, source))]


@pytest.fixture
def papers(record: Make) -> Make:
    """A factory of a confirmation under the paper's protocol: ``papers(lr, seed, test, val)``, counts at every step."""

    def make(
        lr: float,
        seed: int,
        test: Sequence[int],
        val: Sequence[int],
        *,
        row: Mapping[str, Any] | None = None,
        method: str = "full",
        preprocess: str | None = None,
        images: str = "digits",
        source: int = 60,
        **changes: Any,
    ) -> Record:
        best = STEPS[test.index(max(test))]
        readings = before_and_after(best, source, images)
        for step, of_test, of_val in zip(STEPS, test, val, strict=True):
            readings += [
                reading(step, "test", "target", of_test, images),
                reading(step, "val", "target", of_val, images),
            ]
        trial = f"{method}-confirm-{'-'.join(map(str, (row or {}).values()))}-lr{lr}-seed{seed}"
        train = {"lr": lr, "steps": STEPS[-1], **({"preprocess": preprocess} if preprocess else {})}
        return record(
            **{
                "trial": trial,
                "study": "paper_audit",
                "method": method,
                "hyperparameters": {**(row or {}), "lr": lr},
                "row": {**(row or {}), "lr": lr},
                "seed": seed,
                "protocol": "paper",
                "steps": STEPS[-1],
                "details": {"kept_step": best},
                "readings": tuple(readings),
                "config": {"id": trial, "seed": seed, "train": train},
                **changes,
            }
        )

    return make


@pytest.fixture
def chosen(record: Make) -> Make:
    """A factory of a confirmation of what a search chose: ``chosen(seed, target)``."""

    def make(seed: int, target: int, *, method: str = "full", images: str = "digits", **changes: Any) -> Record:
        trial = f"{method}-confirm-seed{seed}"
        readings = [reading(STEPS[-1], "test", "target", target, images), *before_and_after(STEPS[-1], 80, images)]
        return record(
            **{
                "trial": trial,
                "method": method,
                "hyperparameters": {"lr": 0.02},
                "seed": seed,
                "steps": STEPS[-1],
                "readings": tuple(readings),
                "config": {"id": trial, "seed": seed, "train": {"lr": 0.02, "steps": STEPS[-1]}},
                **changes,
            }
        )

    return make


@pytest.fixture
def grid(papers: Make) -> Callable[..., list[Record]]:
    """Two rates and two seeds. By test data 0.1 at step 20 is the best; by validation data 0.01 at step 20, and of the
    last checkpoints 0.01, too."""

    def make(**changes: Any) -> list[Record]:
        return [
            papers(0.01, 0, (150, 158, 156), (70, 80, 78), **changes),
            papers(0.1, 0, (160, 170, 140), (75, 70, 60), **changes),
            papers(0.01, 1, (150, 160, 158), (70, 80, 78), **changes),
            papers(0.1, 1, (160, 174, 140), (75, 70, 60), **changes),
        ]

    return make


@pytest.fixture
def launches(grid: Callable[..., list[Record]], papers: Make, chosen: Make) -> list[Record]:
    """All three launches; the backbone's own preprocessing is worth an image of the last checkpoint, a search ten."""
    own = [
        papers(lr, seed, test, val, preprocess="backbone")
        for seed in (0, 1)
        for lr, test, val in ((0.01, (150, 160, 158 + seed), (70, 80, 78)), (0.1, (160, 160, 140), (75, 70, 60)))
    ]
    return [*grid(), *own, *(chosen(seed, 168 + seed) for seed in (0, 1))]


def points(found: Audit) -> dict[str, float]:
    return {part.name: round(100 * part.added.value, 6) for part in found.rows[0].parts}


def test_every_choice_of_the_paper_has_its_share(launches: list[Record]) -> None:
    found = audit(launches)
    (row,) = found.rows
    # Accuracies by stage, of 200 images, seeds 0 and 1: 170 174; 160 160; 158 160; 156 158; 158 159; 168 169.
    assert points(found) == {"checkpoint": 6.0, "rate": 0.5, "last": 1.0, "preprocess": -0.75, "search": -5.0}
    assert 100 * row.optimism.value == pytest.approx(6.5)
    assert row.of_seeds == pytest.approx([85.0, 87.0])
    assert row.luck == pytest.approx(-1.0)
    assert row.rates["paper"] == [0.1, 0.1]
    assert row.rates["rate"] == row.rates["last"] == [0.01, 0.01]
    assert row.rates["search"] == [0.02]
    assert row.rates["grid"] == [0.01, 0.1]
    assert row.at_an_end
    assert found.lacking == found.left_out == found.unread == ()


def test_the_shares_add_up_to_the_whole_and_have_intervals(launches: list[Record]) -> None:
    (row,) = audit(launches).rows
    whole = row.total("target_accuracy")
    assert whole is not None
    assert sum(part.added.value for part in row.parts) == pytest.approx(whole.value)
    for part in row.parts:
        ends = part.added.interval()
        assert ends is not None
        assert ends[0] <= part.added.value <= ends[1]
    source = row.total("source_accuracy")
    assert source is not None
    assert source.value == pytest.approx(0.6 - 0.8)


def test_choosing_on_the_same_images_adds_nothing(papers: Make) -> None:
    rates = {0.01: (100, 120, 110), 0.1: (130, 150, 140)}
    records = [papers(lr, seed, test, [count // 2 for count in test]) for lr, test in rates.items() for seed in (0, 1)]
    assert points(audit(records)) == {"checkpoint": 0.0, "rate": 0.0, "last": 5.0}


def test_a_search_over_other_seeds_or_repeated_is_compared_as_it_is(launches: list[Record], chosen: Make) -> None:
    grids = [record for record in launches if record.protocol == "paper"]
    others = [chosen(seed, 168 + seed % 2) for seed in (7, 8)]
    assert points(audit([*grids, *others]))["search"] == -5.0

    def of_repeat(number: int) -> Record:
        search = SearchContext(objective="target_accuracy", trials=16, lag=8, seed=number, repeat=number)
        return chosen(number, 168 + number, search=search)

    assert points(audit([*grids, of_repeat(0), of_repeat(1)]))["search"] == -5.0


def test_only_seeds_that_all_launches_have_count(launches: list[Record], papers: Make) -> None:
    third = [papers(lr, 2, (199, 199, 199), (99, 99, 99)) for lr in (0.01, 0.1)]
    assert points(audit([*launches, *third])) == points(audit(launches))


def test_what_was_not_launched_is_named_with_its_command(grid: Callable[..., list[Record]]) -> None:
    found = audit(grid())
    assert found.lacking == ("preprocess", "search")
    text = audit_page.page(found, "made so")
    assert text.splitlines()[2].startswith(
        "On `this benchmark` choosing checkpoint and learning rate on test data adds 6.5 ["
    )
    assert re.search(rf"^\| `{re.escape(NEEDED[0])}` \|.*given \|$", text, re.MULTILINE)
    for command in NEEDED[1:]:
        assert re.search(rf"^\| `{re.escape(command)}` \|.*\*\*missing\*\* \|$", text, re.MULTILINE)
    assert "is not known: that launch is not there" in text.split("Made by")[0]


def test_the_commands_it_names_are_those_of_studies_that_ship() -> None:
    for command in NEEDED:
        words = shlex.split(command)
        overrides = [word for flag, word in itertools.pairwise(words) if flag == "--set"]
        found = studies.load(words[words.index("--study") + 1], overrides=overrides).studies
        papers = "paper_audit" in words
        for study in found:
            studies.check(study, benchmarks.get("cifar100"), depth=12)
        assert {study.protocol for study in found} == {"paper" if papers else "clean"}
        assert all(("lr" in study.rows, len(study.seeds)) == (papers, 3) for study in found)


def test_a_row_is_known_by_what_differs_from_the_usual(grid: Callable[..., list[Record]], chosen: Make) -> None:
    """Linear probing with its usual budget is a row of the suites, and no row value of the study alone."""
    row = {"budget": 1}
    found = audit([*grid(method="linear", row=row), *(chosen(seed, 168, method="linear") for seed in (0, 1))])
    assert [one.label for one in found.rows] == ["linear"]
    assert "search" in found.rows[0].stages


def test_the_mean_is_over_rows_image_by_image(launches: list[Record], papers: Make, chosen: Make) -> None:
    other = [
        papers(lr, seed, (160, 160, 160), (80, 80, 80), method="lora", row={"rank": 8})
        for lr in (0.1, 1.0)
        for seed in (0, 1)
    ]
    fields = {"method": "lora", "row": {"rank": 8}, "hyperparameters": {"rank": 8, "lr": 0.02}}
    searched = [chosen(seed, 160, **fields) for seed in (0, 1)]
    found = audit([*launches, *other, *searched])
    assert found.mean is not None
    assert {part.name: round(100 * part.added.value, 6) for part in found.mean.parts}["checkpoint"] == 3.0
    assert "preprocess" not in found.mean.stages  # of which lora has none
    text = audit_page.page(found, "made so")
    assert "What the preprocessing does to lora rank=8: of these it was not varied" in text
    assert "its preprocessing by -0.8 (full)" in text.splitlines()[2]
    assert "| given for 1 of 2 rows |" in text
    assert unsteady_pairs(found.rows) == (0, 1)


def test_a_rate_that_failed_is_not_chosen(grid: Callable[..., list[Record]], failed: Callable[..., Record]) -> None:
    records = [failed(one) if (one.seed, one.hyperparameters["lr"]) == (0, 0.1) else one for one in grid()]
    assert audit(records).rows[0].rates["paper"] == [0.01, 0.1]


def test_an_incomplete_row_is_left_out_and_named(grid: Callable[..., list[Record]], chosen: Make) -> None:
    whole = grid()
    lost = grid(method="lora", row={"rank": 8})[:-1]
    fields = {"row": {"rank": 8}, "hyperparameters": {"rank": 8, "lr": 0.02}}
    of_search = [chosen(0, 160, method="lora", **fields), chosen(0, 160, method="top_k", row={"k": 3})]
    found = audit([*whole, *lost, *of_search])
    assert [row.label for row in found.rows] == ["full"]
    assert found.unread == ("top_k k=3",)
    assert found.left_out == ("lora rank=8 has no record of lr = 0.1 with seed 1",)
    assert f"rows that are not complete: {found.left_out[0]}." in audit_page.page(found, "made so")


def without_validation(record: Record) -> Record:
    return record.model_copy(update={"readings": tuple(one for one in record.readings if one.split == "test")})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda found: [],
            "no record is a confirmation under protocol paper: run python launch.py --study paper_audit",
        ),
        (lambda found: found[::2], "full has 1 learning rate and 2 seeds, and needs two of either"),
        (lambda found: found[:2], "full has 2 learning rates and 1 seed, and needs two of either"),
        (lambda found: [*found, found[0]], "full: lr = 0.01 and seed 0 are there twice"),
        (lambda found: [without_validation(one) for one in found], "was not read on both test and validation data"),
        (
            lambda found: [*found, found[0].model_copy(update={"benchmark": "cifar100"})],
            "these records are of cifar100, tiny",
        ),
    ],
)
def test_what_cannot_be_audited_is_refused(
    grid: Callable[..., list[Record]], spoil: Callable[[list[Record]], list[Record]], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        audit(spoil(grid()))


def test_other_images_are_refused(grid: Callable[..., list[Record]], chosen: Make) -> None:
    with pytest.raises(ValueError, match="full: the launch for 'search' was measured on other test images"):
        audit([*grid(), *(chosen(seed, 160, images="letters") for seed in (0, 1))])


def test_the_command_writes_what_it_prints(
    launches: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    places = [LaunchFolder(Path(name)) for name in ("grid", "own", "search")]
    for record in launches:
        own = record.config["train"].get("preprocess") == "backbone"
        record.write(places[2 if record.protocol == "clean" else int(own)].records)
    assert __main__.main(["audit", "grid", "own", "search", "grid"]) == 0
    shown = capsys.readouterr().out
    assert __main__.main(["audit", "grid", "own", "search", "--out", "audit.md"]) == 0
    made = Path("audit.md").read_text(encoding="utf-8")
    assert made.replace(" --out audit.md", "", 1).rstrip() == shown.rstrip()
    assert __main__.main(["audit", "search"]) == 2
    assert __main__.main(["audit", "nowhere"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["error"] * 2
    assert "python launch.py --study paper_audit" in errors[0]


def test_the_page_is_what_its_command_makes_of_the_committed_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^Made by `(.+)`; do not edit it\.$", page, re.MULTILINE)
    asked = shlex.split(command)
    assert asked[:4] == ["python", "-m", "bench", "audit"]
    assert asked[-2:] == ["--out", "docs/audit.md"]
    assert __main__.main([*asked[3:-1], str(tmp_path / "audit.md")]) == 0
    made = (tmp_path / "audit.md").read_text(encoding="utf-8").replace(str(tmp_path / "audit.md"), "docs/audit.md", 1)
    assert made == page


def test_the_page_counts_the_models_that_its_launches_train() -> None:
    def trained(suite: str) -> int:
        return sum(study.all_trials for study in studies.load(suite).studies)

    page = " ".join((ROOT / "docs" / "audit.md").read_text(encoding="utf-8").split())
    assert f"train {trained('paper_audit')} models each, the search {trained('paper')} " in page


def test_the_page_begins_with_the_answer_in_three_sentences() -> None:
    answer = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8").splitlines()[2]
    assert len(re.findall(r"[a-z\])]\. ?", answer)) == 3
