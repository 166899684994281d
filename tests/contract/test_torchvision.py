"""torchvision's data sets, read from tiny files in their real formats."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench import data, models, records
from bench.checkpoints import Merged, class_names, export, predict
from bench.data import Split
from bench.data._files import FileImages
from bench.data._torchvision import SETS
from bench.launching import benchmarks, studies
from bench.spec import SpecError, make_trial

from .test_folders import classes, paint

PER_CLASS = 10


def cifar(root: Path, folder: str, batches: dict[str, int], label: str, meta: str, key: str) -> None:
    (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in batches.items():
        pixels = rng.integers(0, 255, (count, 3072), dtype=np.uint8)
        content = {"data": pixels, label: [i % 4 for i in range(count)]}
        (root / folder / name).write_bytes(pickle.dumps(content))
    (root / folder / meta).write_bytes(pickle.dumps({key: [str(i) for i in range(4)]}))


def cifar10(root: Path) -> None:
    batches = {f"data_batch_{i}": 20 for i in range(1, 6)} | {"test_batch": 12}
    cifar(root, "cifar-10-batches-py", batches, "labels", "batches.meta", "label_names")


def cifar100(root: Path) -> None:
    cifar(root, "cifar-100-python", {"train": 100, "test": 12}, "fine_labels", "meta", "fine_label_names")


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("test", 12)):
        rng.integers(0, 255, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{name}_X.bin")
        (np.arange(count, dtype=np.uint8) % 4 + 1).tofile(folder / f"{name}_y.bin")
    (folder / "class_names.txt").write_text("a\nb\nc\nd\n")
    for name in ("unlabeled_X.bin", "fold_indices.txt"):  # torchvision wants them to be there, and does not read them
        (folder / name).touch()


def pets37(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    for part, start in (("trainval", 0), ("test", 100)):
        lines = []
        for i in range(PER_CLASS * 2):
            name = f"{'ab'[i % 2]}_{start + i}"
            paint(base / "images" / f"{name}.jpg", seed=start + i)
            lines.append(f"{name} {i % 2 + 1} 1 1")
        (base / "annotations").mkdir(exist_ok=True)
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")


def flowers102(root: Path) -> None:
    from scipy.io import savemat

    base = root / "flowers-102"
    for i in range(1, 31):
        paint(base / "jpg" / f"image_{i:05d}.jpg", seed=i)
    savemat(base / "imagelabels.mat", {"labels": np.arange(30) % 3 + 1})
    ids = np.arange(1, 31)
    savemat(base / "setid.mat", {"trnid": ids[:12], "valid": ids[12:18], "tstid": ids[18:]})


def food101(root: Path) -> None:
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for part, start in (("train", 0), ("test", 100)):
        listing = {name: [f"{name}/{start + i}" for i in range(PER_CLASS)] for name in ("pie", "soup")}
        (base / "meta" / f"{part}.json").write_text(json.dumps(listing))
        for seed, path in enumerate(path for paths in listing.values() for path in paths):
            paint(base / "images" / f"{path}.jpg", seed=1000 * start + seed)


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for number, part in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{number}{i}.jpg" for kind in ("dotted", "woven") for i in range(4)]
        (base / "labels" / f"{part}1.txt").write_text("\n".join(names) + "\n")
        for seed, name in enumerate(names):
            paint(base / "images" / name, seed=100 * number + seed)


def aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    (base / "images").mkdir(parents=True)
    (base / "variants.txt").write_text("707\n727\n")
    for number, part in enumerate(("train", "val", "test")):
        lines = []
        for i in range(8):
            name = f"{number}{i:03d}"
            paint(base / "images" / f"{name}.jpg", seed=100 * number + i)
            lines.append(f"{name} {'707' if i % 2 else '727'}")
        (base / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")


def cars(root: Path) -> None:
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    kind = [("fname", object), ("class", object)]
    for part, target in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.empty(20, dtype=kind)
        for i in range(20):
            rows[i] = (f"{i:05d}.jpg", i % 2 + 1)
            paint(base / f"cars_{part}" / f"{i:05d}.jpg", seed=i + (500 if part == "test" else 0))
        savemat(base / target, {"annotations": rows})
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["a", "b"], dtype=object)})


def imagenette(root: Path) -> None:
    for start, (part, count) in enumerate((("train", 10), ("val", 4))):
        for label, name in enumerate(("n01440764", "n02102040")):
            for i in range(count):
                path = root / "imagenette2-320" / part / name / f"{i}.JPEG"
                paint(path, seed=1000 * start + 100 * label + i)


MAKERS: dict[str, Callable[[Path], None]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "stl10": stl10,
    "pets37": pets37,
    "flowers102": flowers102,
    "food101": food101,
    "dtd": dtd,
    "aircraft": aircraft,
    "cars": cars,
    "imagenette": imagenette,
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty data folder; checksums are those of the real files, so they are not asked for."""
    from torchvision.datasets import cifar as cifar_module
    from torchvision.datasets import flowers102 as flowers_module
    from torchvision.datasets import stl10 as stl_module

    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    for module in (cifar_module, flowers_module, stl_module):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).exists())
    data.source.cache_clear()
    data.target.cache_clear()
    data._build.cache_clear()


def fingerprints(split: Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.take(torch.arange(len(split)))}


def test_every_set_is_covered() -> None:
    assert set(MAKERS) == set(SETS)
    assert {name: data.num_classes(name) for name in ("cifar100", "dtd", "cars")} == {
        "cifar100": 100,
        "dtd": 47,
        "cars": 196,
    }


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_it_is_known_what_needs_a_download(name: str, tmp_path: Path) -> None:
    assert not data.at_hand(name)
    MAKERS[name](tmp_path)
    assert data.at_hand(name)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_splits_are_disjoint_and_hold_every_class(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    found = data.target(name, size=16)
    parts = [found.train, found.val, found.test]
    classes = [set(part.labels.tolist()) for part in parts]
    assert classes[0] == classes[1] == classes[2]
    assert min(classes[0]) == 0
    prints = [fingerprints(part) for part in parts]
    assert len(prints[0] | prints[1]) == len(prints[0]) + len(prints[1]) == len(found.train) + len(found.val)
    assert not prints[2] & (prints[0] | prints[1])
    image = found.train.take(torch.tensor([0]))
    assert image.dtype == torch.uint8
    assert image.shape[:2] == (1, 3)


@pytest.mark.parametrize("protocol", ["clean", "paper"])
@pytest.mark.parametrize("name", [*sorted(MAKERS), "digits", "folder"])
def test_predict_is_as_good_as_evaluate_on_the_test_split(name: str, protocol: str, tmp_path: Path) -> None:
    """The exported model calls every test picture, taken from its file, what evaluation calls it."""
    if name in MAKERS:
        MAKERS[name](tmp_path)
    target = f"folder:{classes(tmp_path / 'pictures', count=20)}" if name == "folder" else name
    (study,) = studies.load("linear", overrides=[f"protocol={protocol}"]).studies
    benchmark = benchmarks.adapted(benchmarks.get("tiny"), {"target.name": target, "source.name": target})
    spec = make_trial(study, benchmark, {"lr": 0.1}, launch="t", label="x", seed=0, phase="confirm")
    setting = models.Setting.of(spec, models.CPU)
    few = setting.target.test.select(np.arange(0, len(setting.target.test), max(1, len(setting.target.test) // 40)))
    torch.manual_seed(0)
    vit = models.create(benchmark.backbone, num_classes=setting.target.num_classes).eval()
    record = records.of(spec, status="stopped")
    numbered = replace(setting.target, class_names=())  # the small files name fewer classes than the sets have
    merged = Merged(record, benchmark.backbone, setting.preprocess, numbered, vit)
    export(merged, tmp_path / "model.safetensors")
    with torch.inference_mode():
        expected = vit(setting.preprocess(few.take(torch.arange(len(few))))).softmax(1).max(1)
    found = list(predict(tmp_path / "model.safetensors", files_of(few, tmp_path / "written")))
    names = [class_names(numbered)[label] for label in expected.indices.tolist()]
    assert [prediction.classes[0] for prediction in found] == names
    percent = [prediction.percent[0] for prediction in found]
    assert percent == pytest.approx((100 * expected.values).tolist(), abs=1e-4)
    assert len({round(share, 2) for share in percent}) > len(few) // 4  # the model looks at its pictures


def files_of(split: Split, folder: Path) -> list[Path]:
    """A split's pictures as files: its own, or what it holds in memory."""
    if isinstance(split, FileImages):
        return split.paths
    folder.mkdir()
    files = [folder / f"{index:04d}.png" for index in range(len(split))]
    for file, image in zip(files, split.take(torch.arange(len(split))), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
    return files


@pytest.mark.parametrize("name", ["cifar10", "food101"])
def test_a_target_can_be_a_source(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    source = data.source(name, size=16, per_class=3)
    assert set(torch.bincount(source.bank.labels).tolist()) == {3}


@pytest.mark.parametrize("name", ["cifar100", "dtd"])
def test_offline_without_files_says_where_they_belong(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import urllib.request

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(SpecError, match=rf"{SETS[name].folder}.*no network.*into {tmp_path}"):
        data.fetch(name)
