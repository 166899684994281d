"""Folders of pictures as people have them: split folders of any usual name, junk of systems, names in any encoding."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import checkpoints, data, records
from bench.data._files import FileImages
from bench.launching import benchmarks, plans, preflight, screen, studies
from bench.launching.changes import Change
from bench.launching.launch import Launch
from bench.launching.request import Request
from bench.measuring import Meter
from bench.models import CPU, Setting
from bench.spec import SpecError, make_trial, printable


def paint(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    with path.open("wb") as file:
        Image.fromarray(pixels).save(file, "png")


@pytest.fixture
def seeds() -> Iterator[int]:
    """No two pictures of a test are the same."""
    return iter(range(10_000))


def classes(root: Path, seeds: Iterator[int], names: tuple[str, ...] = ("ant", "bee"), count: int = 8) -> Path:
    for name in names:
        for index in range(count):
            paint(root / name / f"{index}.png", next(seeds))
    return root


def target(root: Path) -> data.Target:
    return data.target(f"folder:{root}", size=8)


def sizes(found: data.Target) -> list[int]:
    return [len(split) for split in (found.train, found.val, found.test)]


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("TRAINING", "validation", "testing"),
        ("training_set", "dev_set", "test_set"),
        ("train images", "Validation-Set", "TestData"),
    ],
)
def test_splits_are_known_by_their_usual_names(names: tuple[str, ...], tmp_path: Path, seeds: Iterator[int]) -> None:
    for name, count in zip(names, (8, 2, 3), strict=True):
        classes(tmp_path / name, seeds, count=count)
    found = target(tmp_path)
    assert (list(found.class_names), sizes(found)) == (["ant", "bee"], [16, 4, 6])


def test_missing_splits_are_split_off_whatever_train_is_called(tmp_path: Path, seeds: Iterator[int]) -> None:
    classes(tmp_path / "Train", seeds, count=10)
    classes(tmp_path / "Valid", seeds, count=2)
    assert sizes(target(tmp_path)) == [17, 4, 3]


def test_wrappers_are_opened(tmp_path: Path, seeds: Iterator[int]) -> None:
    classes(tmp_path / "archive" / "birds" / "Train", seeds)
    classes(tmp_path / "archive" / "birds" / "Test", seeds, count=2)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "archive" / "README.txt").write_text("birds")
    assert sizes(target(tmp_path)) == [14, 2, 4]
    classes(tmp_path / "flat" / "birds", seeds)
    assert sizes(target(tmp_path / "flat")) == [12, 2, 2]


def test_a_split_that_is_wrapped_in_a_folder_of_its_name_is_opened(tmp_path: Path, seeds: Iterator[int]) -> None:
    classes(tmp_path / "training_set" / "training_set", seeds)
    classes(tmp_path / "test_set" / "test_set", seeds, count=2)
    assert sizes(target(tmp_path)) == [14, 2, 4]


def test_one_class_is_no_wrapper(tmp_path: Path, seeds: Iterator[int]) -> None:
    classes(tmp_path, seeds, names=("ant",))
    with pytest.raises(SpecError, match="at least two classes, not 1"):
        target(tmp_path)


def test_wrapped_links_that_lead_round_end(tmp_path: Path, seeds: Iterator[int]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    with pytest.raises(SpecError, match="two classes"):
        target(tmp_path / "a")
    classes(tmp_path / "c", seeds)
    (tmp_path / "c" / "self").symlink_to(tmp_path / "c")
    assert target(tmp_path / "c").num_classes == 2


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["bus", "car", "train/steam", "train/electric"], "holds train, .* beside bus, car: .*splits.*rename train"),
        (["bus", "car", "Train"], "holds Train, .* beside bus, car"),
        (["ant", "bee", "test"], "holds test, .* beside ant, bee"),
        (["train/ant", "train/bee", "test/ant", "test/bee", "more/ant"], "beside more"),
        (["val/ant", "val/bee", "test/ant", "test/bee"], "holds test, val, .* no train folder"),
        (["train/ant", "train/bee", "val/ant", "valid/ant"], "val and valid, which both mean the val split"),
        (["train/ant", "train/bee", "Training/ant"], "Training and train, which both mean the train split"),
        (["ant/train", "ant/test", "bee/train", "bee/test"], "holds ant/test and ant/train: .*train/ant"),
        (["train/ant", "train/bee", "test"], "test holds pictures but no class folders"),
        (["train", "test"], "train holds pictures but no class folders"),
    ],
)
def test_what_could_be_a_split_and_a_class_is_refused(
    folders: list[str], said: str, tmp_path: Path, seeds: Iterator[int]
) -> None:
    for folder in folders:
        for index in range(8):
            paint(tmp_path / folder / f"{index}.png", next(seeds))
    with pytest.raises(SpecError, match=said):
        target(tmp_path)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("seg_train/seg_train", "seg_test/seg_test"), ("train", "test")),
        (("images_train", "images_val", "images_test"), ("train", "val", "test")),
        (("birds-Train", "birds_TEST"), ("train", "test")),
        (("trainBirds", "testBirds"), ("train", "test")),
        (("ILSVRC2012_img_train", "ILSVRC2012_img_val"), ("train", "val")),
        (("birds_training_set", "birds_test"), ("train", "test")),
        (("train2017", "val2017"), None),
        (("train1", "test1"), None),
        (("Trainingsdaten", "Testdaten"), None),
    ],
)
def test_splits_whose_names_differ_in_the_split_alone_are_read_and_said(
    names: tuple[str, ...], parts: tuple[str, ...] | None, tmp_path: Path, seeds: Iterator[int]
) -> None:
    for name in names:
        classes(tmp_path / name, seeds)
    found = target(tmp_path)
    assert found.class_names == ["ant", "bee"]
    assert isinstance(found.train, FileImages)
    top = {path.relative_to(tmp_path).parts[0] for path in found.train.paths}
    assert top == {names[0].split("/")[0]}
    said = data.remarks(found.train, found.val, found.test)
    if parts is None:  # usual names
        assert said == []
    else:
        tops = (name.split("/")[0] for name in names)
        read = sorted(f"{top} as {part}" for top, part in zip(tops, parts, strict=True))
        assert [sorted(one.removeprefix("read as splits: ").split(", ")) for one in said] == [read]


SPLITS_OF_ANY_NAME = (
    "with folders of the same names in them .*ant.*bee.*: if .* splits.* train, val and test; if .*classes"
)


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (
            ["seg_train/seg_train/*", "seg_test/seg_test/*", "seg_pred/seg_pred"],
            "seg_test, seg_train.* beside seg_pred",
        ),
        (["asl_train/asl_train/*", "asl_test/asl_test"], "asl_test, asl_train.* not the same class folders"),
        (["birds_train/*", "birds_test/ant"], "birds_test, birds_train, .* not the same class folders"),
        (["images_train", "images_test"], "images_test, images_train, .* not the same class folders"),
        (["birds_train/*", "birds_pred"], "birds_train, .* beside birds_pred"),
        (["birds_train/*", "birds_evaluation/*"], "birds_train, .* beside birds_evaluation"),
        (["birds_train/*", "fish_test/*"], "holds birds_train, .* beside fish_test"),
        (["trainA", "trainB", "testA", "testB"], "testA, trainA, .* beside testB, trainB"),
        (["ant_train", "ant_test", "bee_train", "bee_test"], "ant_test, ant_train, .* beside bee_test, bee_train"),
        (["birds_test/*", "birds_val/*"], "birds_test, birds_val, .* no train folder"),
        (["train1/*", "train2/*", "test1/*"], "train1 and train2, which both mean the train split"),
        (["tr/*", "te/*"], SPLITS_OF_ANY_NAME),
        (["fold1/*", "fold2/*", "fold3/*"], SPLITS_OF_ANY_NAME),
        (["fold1/pictures/*", "fold2/pictures/*"], SPLITS_OF_ANY_NAME),
        (["tri/ant", "tri/bee", "tes/Ant", "tes/Bee"], SPLITS_OF_ANY_NAME),
        (
            ["fold1/train", "fold1/bus", "fold2/train", "fold2/bus"],
            "with folders of the same names in them .*bus, train",
        ),
        (["original/*", "augmented/*"], SPLITS_OF_ANY_NAME),
        (["entrenamiento/*", "prueba/*", "otros"], SPLITS_OF_ANY_NAME),
        (["query/*", "gallery/*", "gallery/cow"], SPLITS_OF_ANY_NAME),
        (["one/*", "two/ant"], "with folders of the same names in them .*if .* splits"),
        (["cat/indoor", "cat/outdoor", "dog/indoor", "dog/outdoor"], "move all class folders into .*train/cat"),
        (
            ["cat/imgs/train", "cat/imgs/test", "dog/imgs/train", "dog/imgs/test"],
            "holds cat/imgs/test and cat/imgs/train",
        ),
        (["cat/x/train_1", "cat/x/test_1", "dog"], "holds cat/x/test_1 and cat/x/train_1: .*train/cat"),
        (["cat/train", "dog/test"], "holds cat/train and dog/test"),
        (["images/train", "images/other", "labels/train"], r"holds images, labels, .* \(train\)"),
        (["train/ant", "train/bee", "train/val/*"], "val holds ant, bee, as .*train does: if val is a split"),
        (["train/ant", "train/bee", "train/val/ant"], "val holds ant, as .*train does"),
        (["ant", "bee", "backup/*"], "backup holds ant, bee, as .* does: .* a copy, move it out"),
        (["train/train/*", "train/test/*"], "holds test and train: .*train/<class>"),
        (["train/cat/train", "train/cat/val", "train/dog", "test/cat", "test/dog"], "holds cat/train and cat/val"),
    ],
)
def test_what_looks_like_splits_is_refused_with_both_readings(
    folders: list[str], said: str, tmp_path: Path, seeds: Iterator[int]
) -> None:
    for folder in folders:
        if folder.endswith("/*"):
            classes(tmp_path / folder.removesuffix("/*"), seeds)
        for index in range(0 if folder.endswith("/*") else 8):
            paint(tmp_path / folder / f"{index}.png", next(seeds))
    with pytest.raises(SpecError, match=said):
        target(tmp_path)


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (["train/cat/indoor", "train/cat/outdoor", "train/dog/indoor", "train/dog/outdoor"], ["cat", "dog"]),
        (["cat/images", "dog/images"], ["cat", "dog"]),
        (["cat/a/siamese", "cat/a/other", "dog/a/labrador", "dog/a/other"], ["cat", "dog"]),
        (["bullet_train", "test_tube", "bus"], ["bullet_train", "bus", "test_tube"]),
        (["test_positive", "test_negative"], ["test_negative", "test_positive"]),
        (["train/train", "train/bus", "test/train", "test/bus"], ["bus", "train"]),
        (["valley", "contest", "trainer", "device"], ["contest", "device", "trainer", "valley"]),
    ],
)
def test_classes_that_are_no_splits_are_classes(
    folders: list[str], found: list[str], tmp_path: Path, seeds: Iterator[int]
) -> None:
    for folder in folders:
        for index in range(8):
            paint(tmp_path / folder / f"{index}.png", next(seeds))
    assert target(tmp_path).class_names == found


def test_folders_without_pictures_beside_splits_do_no_harm(tmp_path: Path, seeds: Iterator[int]) -> None:
    classes(tmp_path / "train", seeds)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.xml").write_text("<boxes/>")
    assert target(tmp_path).num_classes == 2


def test_imagenet_is_read_by_the_same_rules(tmp_path: Path, seeds: Iterator[int]) -> None:
    root = tmp_path / "CLS-LOC"
    classes(root / "Train", seeds)
    classes(root / "validation", seeds, count=4)
    paint(root / "test" / "unlabelled.png")
    paint(root / "Train" / "ant" / ".ipynb_checkpoints" / "x.png")
    source = data.source(f"imagenet1k:{tmp_path}", size=8)
    assert (len(source.bank), len(source.val), len(source.test)) == (16, 4, 4)


def junk(root: Path) -> None:
    """What systems leave in a folder: 6 hidden files."""
    for name in (".ipynb_checkpoints/0-checkpoint.png", "._0.png", "__MACOSX/._1.png", "@eaDir/2.png", "deep/.x/3.png"):
        paint(root / name)
    (root / "Thumbs.db").write_bytes(b"")


def test_what_is_hidden_never_counts_and_the_rest_is_counted_by_reason(tmp_path: Path, seeds: Iterator[int]) -> None:
    classes(tmp_path / "train", seeds)
    junk(tmp_path / "train" / "ant")
    junk(tmp_path / "train")
    junk(tmp_path)
    paint(tmp_path / "train" / "bee" / "deep" / "UPPER.PNG", next(seeds))
    for name in ("a.heic", "b.HEIC", "c.gif", "d.avif", "README"):
        (tmp_path / "train" / "bee" / name).write_bytes(b"")
    (tmp_path / "train" / "bee" / "linked").symlink_to(tmp_path / "train" / "ant")
    paint(tmp_path / "train" / "loose.png", next(seeds))
    (tmp_path / "train" / "bee" / "bad.png").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "train" / "bee" / "pipe.png")
    (tmp_path / "train" / "deep").rename(tmp_path / "train" / ".deep")
    (tmp_path / "deep").rename(tmp_path / ".deep")
    found = data.target(f"folder:{tmp_path}", size=8, bad_images="skip")
    assert sum(sizes(found)) == 17
    assert data.left_out(found.train, found.val, found.test) == {
        "hidden": 18,
        "suffix .heic": 2,
        "suffix .gif": 1,
        "suffix .avif": 1,
        "no suffix": 1,
        "link to a folder": 1,
        "beside the class folders": 1,
        "no regular file": 1,
        "unreadable": 1,
    }


def test_a_class_whose_pictures_are_of_another_kind_says_so(tmp_path: Path, seeds: Iterator[int]) -> None:
    classes(tmp_path, seeds)
    (tmp_path / "cow").mkdir()
    (tmp_path / "cow" / "0.heic").write_bytes(b"")
    with pytest.raises(SpecError, match=r"class 'cow' has no images in .* \(left out: 1 suffix \.heic\)"):
        target(tmp_path)


def test_prediction_looks_into_folders_by_the_same_rules(tmp_path: Path, seeds: Iterator[int]) -> None:
    classes(tmp_path, seeds, count=2)
    junk(tmp_path)
    own = [tmp_path / name / f"{index}.png" for name in ("ant", "bee") for index in (0, 1)]
    for images in ([tmp_path], [f"{tmp_path}/*"], [f"{tmp_path}/**/*.png"]):
        assert checkpoints.pictures(images).pictures == own
    for everything in (tmp_path, f"{tmp_path}/**"):
        assert checkpoints.pictures([everything]).left_out == {"hidden": 6}
    hidden = tmp_path / "._0.png"
    assert checkpoints.pictures([hidden]).pictures == [hidden]  # as it was named
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"other holds no pictures \(left out: 1 suffix \.heic\)"):
        checkpoints.pictures([tmp_path / "other"])


def test_identical_files_in_two_splits_are_found(tmp_path: Path, seeds: Iterator[int]) -> None:
    for name, count in (("train", 8), ("val", 2), ("test", 3)):
        classes(tmp_path / name, seeds, count=count)
    assert data.remarks(*(splits := (target(tmp_path).train, target(tmp_path).val, target(tmp_path).test))) == []
    shared = (tmp_path / "train" / "ant" / "0.png").read_bytes()
    (tmp_path / "train" / "ant" / "copy.png").write_bytes(shared)  # within a split it is no matter
    (tmp_path / "test" / "bee" / "copy.png").write_bytes(shared)
    again = data.target(f"folder:{tmp_path}", size=9)
    assert data.identical(again.train, again.val, again.test) == [
        (tmp_path / "train" / "ant" / "0.png", tmp_path / "test" / "bee" / "copy.png")
    ]
    (said,) = data.remarks(again.train, again.val, again.test)
    assert re.match(r"1 files have the content of one in another split, such as .*bee/copy\.png and .*ant/0\.png", said)
    assert data.identical(*splits) == []


def test_so_many_files_that_nobody_looks_for_identical_ones(
    tmp_path: Path, seeds: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = target(classes(tmp_path, seeds))
    monkeypatch.setattr("bench.data._files.VERIFIED", 10)
    assert data.identical(found.train, found.val, found.test) is None
    assert data.remarks(found.train, found.val, found.test) == [
        "there are too many files to look for identical ones in two splits"
    ]


def prepared(root: Path, results: Path) -> Launch:
    changes = [
        Change(("target", "name"), f"folder:{root}", "--target"),
        Change(("source", "name"), f"folder:{root}", "--source"),
        Change(("results",), str(results), "--results"),
    ]
    return preflight.prepare(Request.of("linear", "tiny", changes))


def test_a_plan_counts_images_by_split_and_class(
    tmp_path: Path, seeds: Iterator[int], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "pictures"
    classes(root / "Train", seeds, names=("ant",))
    classes(root / "Train", seeds, names=("bee",), count=15)
    classes(root / "valid", seeds, count=2)
    classes(root / "test", seeds, count=3)
    (root / "Train" / "ant" / "x.heic").write_bytes(b"")
    (root / "test" / "ant" / "copy.png").write_bytes((root / "Train" / "ant" / "0.png").read_bytes())
    launch = prepared(root, tmp_path / "results")
    text = plans.describe(launch)
    assert "Target:    23 train, 4 val, 7 test images, 2 classes\n" in text
    assert "  ant: 8 train, 2 val, 4 test\n" in text
    assert "  bee: 15 train, 2 val, 3 test\n" in text
    assert "Source:    23 bank, 4 val, 7 test images, 8 to 15 of a class in the bank\n" in text
    assert text.count("left out: 1 suffix .heic") == text.count("1 files have the content of one in") == 2
    assert any(remark.startswith("target: left out: 1 suffix .heic") for remark in preflight.make_ready(launch))


def test_a_record_keeps_what_was_counted(tmp_path: Path, seeds: Iterator[int]) -> None:
    root = classes(tmp_path / "pictures" / "train", seeds, count=10).parent
    classes(root / "val", seeds, count=2)
    classes(root / "test", seeds, count=3)
    (root / "val" / "bee" / "copy.png").write_bytes((root / "train" / "bee" / "0.png").read_bytes())
    (root / "val" / "bee" / "x.gif").write_bytes(b"")
    launch = prepared(root, tmp_path / "results")
    (study,) = launch.suite.studies
    trial = make_trial(study, launch.benchmark, {"lr": 0.1}, launch="x", label="x", seed=0, phase="search")
    images = Meter(trial, Setting.of(trial, CPU)).images()
    assert (images["target_train"], images["target_val"]) == (20, 5)
    assert images["per_class"]["target_train"] == {"ant": 10, "bee": 10}
    assert images["per_class"]["target_val"] == {"ant": 2, "bee": 3}
    assert images["per_class"]["source_bank"] == {"classes": 2, "least": 10, "most": 10}
    assert images["left_out"] == {"suffix .gif": 1}
    assert images["identical"] == {"target": 1, "source": 1}


def test_a_failed_trials_record_holds_names_that_are_not_utf8(tmp_path: Path) -> None:
    (study,) = studies.load("linear").studies
    trial = make_trial(study, benchmarks.get("tiny"), {"lr": 0.1}, launch="x", label="x", seed=0, phase="search")
    record = records.failed(trial, OSError(f"{LATIN_1} is gone"))
    assert records.read(record.write(tmp_path)).error == "OSError: caf\\xe9 is gone"


def test_of_many_classes_the_smallest_and_the_largest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(plans, "NAMED_CLASSES", 2)
    split = data.Images(torch.zeros(6, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 0, 1, 1, 1, 2]))
    lines = list(plans._of_classes(["ant", "bee", "cow"], {"train": split}))
    assert [line.strip() for line in lines[1:]] == ["cow: 1 train", "bee: 3 train"]


LATIN_1 = os.fsdecode(b"caf\xe9")


def test_names_that_are_not_utf8(tmp_path: Path, seeds: Iterator[int]) -> None:
    for name in ("ant", LATIN_1, os.fsdecode(b"caf\xe8")):
        for index in range(8):
            paint(tmp_path / name / f"{index}{LATIN_1}.png", next(seeds))
    found = target(tmp_path)
    assert sizes(found) == [16, 4, 4]
    assert found.class_names == ["ant", "caf\\xe8", "caf\\xe9"]
    assert isinstance(found.train, FileImages)
    assert found.train.fingerprint()
    (tmp_path / "ant" / f"0{LATIN_1}.png").write_bytes(b"no picture")
    with pytest.raises(SpecError, match=r"0caf\\xe9\.png cannot be read as a picture"):
        data.target(f"folder:{tmp_path}", size=9)
    skipping = data.target(f"folder:{tmp_path}", size=9, bad_images="skip")
    (reason,) = data.skipped(skipping.train)
    assert reason.encode()
    assert data.identical(skipping.train, skipping.val, skipping.test) == []


def test_printable_text_can_be_stored_and_shown() -> None:
    assert printable(LATIN_1) == "caf\\xe9"
    assert printable("café ☕") == "café ☕"
    assert printable("café".encode().decode("ascii", "surrogateescape")) == "café"
    assert str(SpecError(f"there is no {LATIN_1}")) == "there is no caf\\xe9"


def test_a_place_that_records_cannot_hold_is_refused(tmp_path: Path, seeds: Iterator[int]) -> None:
    with pytest.raises(SpecError, match=r"caf\\xe9 is not UTF-8, .* link to it with a plain name"):
        prepared(classes(tmp_path / LATIN_1, seeds), tmp_path)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_characters_gets_others(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    screen.tolerate()
    print(f"★ ± {LATIN_1}", flush=True)
    assert shown.buffer.getvalue().decode(encoding).split()[2] == "caf?"  # type: ignore[attr-defined]


def test_so_does_the_screen_of_a_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    with screen.second_stdout() as second:
        assert (second.encoding, second.errors) == ("ascii", "replace")


def test_image_sizes_are_checked_before_anything_else(tmp_path: Path) -> None:
    def prepare(pixels: int) -> Launch:
        changes = [
            Change(("backbone", "name"), "vit_tiny_patch16_224", "--backbone"),
            Change(("backbone", "weights"), "random", "--weights"),
            Change(("backbone", "image_size"), pixels, "--image-size"),
            Change(("results",), str(tmp_path), "--results"),
        ]
        return preflight.prepare(Request.of("linear", "tiny", changes))

    with pytest.raises(SpecError, match="image_size = 15 is less than one patch"):
        prepare(15)
    (said,) = prepare(40).said
    assert said.startswith("note: image_size = 40 is not a multiple of")


def test_folders_without_pictures_hide_no_splits(tmp_path: Path, seeds: Iterator[int]) -> None:
    for fold in ("fold1", "fold2"):
        for kind in ("ant", "bee"):
            paint(tmp_path / fold / "images" / kind / "0.png", next(seeds))
        (tmp_path / fold / "labels").mkdir()
        (tmp_path / fold / "labels" / "0.txt").write_text("ant")
    with pytest.raises(SpecError, match=SPLITS_OF_ANY_NAME):
        target(tmp_path)
