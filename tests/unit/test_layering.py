"""The floors of the house: who may import whom, read off the import statements.

See "Rooms" in docs/architecture.md. Imports inside functions count as well; those under
`if TYPE_CHECKING:` do not, because they do not happen. A new file in a room needs no line here.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOORS = (
    {"spec", "vit", "parallel", "pareto"},
    {"readings", "resources"},
    {"records"},
    {"cache", "folder"},
    {"methods", "data"},
    {"models"},
    {"training"},
    {"measuring"},
    {"trial"},
    {"checkpoints", "pretrain"},
    {"cluster"},
    {"reporting"},
    {"launching"},
    {"__main__", "launch"},
)
"""Rooms from the ground up: folders of `bench`, and its files that are no folder's. A room imports from below only."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

TORCH = {"torch", "torchvision", "timm", "peft", "transformers", "safetensors.torch"}
TORCH_ROOMS = {"parallel", "models", "training", "measuring", "trial", "checkpoints", "pretrain"}
TORCH_WHEN_CALLED = {"vit", "cache", "data", "methods", "cluster", "__main__"}
"""Rooms that import torch inside functions only; those in neither set do not import it at all."""

TORCH_FILES = {"bench.launching.plans"}
"""It counts parameters and times steps; it is imported where that is asked for."""

ONLY_IN = {
    "ray": ("bench.cluster.",),
    "optuna": ("bench.cluster.search",),  # and search_*
    "ray.tune": ("bench.cluster.search",),
    "mlflow": ("bench.reporting.mlflow_",),
    "matplotlib": ("bench.reporting.picture", "bench.checkpoints"),
}
WITHOUT_RAY = {"bench.cluster.board", "bench.cluster.pruning"}
KNOW_NOTHING_OF_BENCH = {"bench", "bench.parallel", "bench.pareto", "bench.measuring.knn"}
DEAR = ("torch", "ray", "mlflow", "peft", "timm", "pandas")


def imported_names(tree: ast.AST, *, package: str) -> Iterator[str]:
    """Every dotted name the code under `tree` imports; relative ones are resolved against `package`."""
    for node in walk_what_runs(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            # `from bench import spec` names a module, `from bench.spec import Study` a thing in one;
            # the longer name is right for the first and does no harm for the second.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def outside_functions(tree: ast.AST) -> ast.Module:
    """What happens when a module is imported."""
    kept = ast.parse("")
    kept.body = [node for node in getattr(tree, "body", []) if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return kept


def walk_what_runs(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    skip_body = isinstance(node, ast.If) and ast.unparse(node.test) in {
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    }
    children = node.orelse if isinstance(node, ast.If) and skip_body else ast.iter_child_nodes(node)
    for child in children:
        yield from walk_what_runs(child)


def absolute(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def room(dotted: str) -> str:
    """`bench.methods.lora` -> `methods`; the package itself -> `bench`; `launch` -> `launch`."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def is_inside(dotted: str, package: str) -> bool:
    return dotted == package or dotted.startswith(package + ".")


def complaints(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of the module called `name` (`launch`, `bench.methods.lora`, ...)."""
    if room(name) != "bench" and room(name) not in FLOOR_OF:
        return [f"{name} is in no room yet: see 'Where do I put ...?' in docs/architecture.md"]
    package = name if is_package else name.rpartition(".")[0]
    tree = ast.parse(source)
    everywhere = set(imported_names(tree, package=package))
    at_import = set(imported_names(outside_functions(tree), package=package))
    objections = {target: objection(name, target, at_import=target in at_import) for target in everywhere}
    return sorted(f"{name} imports {target}: {reason}" for target, reason in objections.items() if reason)


def objection(name: str, target: str, *, at_import: bool) -> str | None:
    for package, places in ONLY_IN.items():
        if is_inside(target, package) and not name.startswith(places):
            return f"{package} belongs in {', '.join(places)} only"
    if is_inside(target, "ray") and name in WITHOUT_RAY:
        return "it works without Ray"
    if any(is_inside(target, package) for package in TORCH) and name not in TORCH_FILES:
        if room(name) not in TORCH_ROOMS | TORCH_WHEN_CALLED:
            return f"{room(name)} has to work without torch"
        if at_import and room(name) in TORCH_WHEN_CALLED:
            return "torch is imported inside functions here"
    if is_inside(target, "launch"):
        return "nothing imports the front door"
    return objection_within_bench(name, target) if is_inside(target, "bench") else None


def objection_within_bench(name: str, target: str) -> str | None:
    if name in KNOW_NOTHING_OF_BENCH:
        return f"{name} knows nothing of bench"
    own, other = room(name), room(target)
    if own == other:
        return None  # neighbours in one room
    if any(part.startswith("_") and not part.startswith("__") for part in target.split(".")):
        return f"it is private to {other}"
    if other not in FLOOR_OF or FLOOR_OF[other] < FLOOR_OF[own]:
        return None  # or `from bench import __version__`
    return f"{own} may only use floors below it, and {other} is not"


def modules() -> dict[str, Path]:
    files = sorted((ROOT / "bench").rglob("*.py"))
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    named = {name.removesuffix(".__init__"): file for name, file in named.items()}
    return named | {"launch": ROOT / "launch.py"}


MODULES = modules()


@pytest.mark.parametrize("name", MODULES)
def test_imports_keep_to_the_floors(name: str) -> None:
    path = MODULES[name]
    assert not complaints(name, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")


def test_every_room_is_there() -> None:
    assert set(FLOOR_OF) == {room(name) for name in MODULES} - {"bench"}


def graph() -> dict[str, set[str]]:
    """Which module of ours imports which, inside functions too."""
    edges: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        is_package = path.name == "__init__.py"
        package = name if is_package else name.rpartition(".")[0]
        targets = set(imported_names(ast.parse(path.read_text(encoding="utf-8")), package=package))
        edges[name] = {known for target in targets if (known := nearest(target)) is not None} - {name}
    return edges


def nearest(dotted: str) -> str | None:
    """The module that a dotted name is, or lies in."""
    while dotted and dotted not in MODULES:
        dotted = dotted.rpartition(".")[0]
    return dotted if dotted not in ("", "bench") else None


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other round and round, however far around."""
    left = {name: set(targets) for name, targets in edges.items()}
    while free := [name for name, targets in left.items() if not targets & set(left)]:
        for name in free:
            del left[name]
    return [sorted(left)] if left else []


def test_nothing_imports_itself_through_others() -> None:
    assert circles(graph()) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bench.training.loop", "import ray"),
        ("bench.training.loop", "def f():\n    from ray import train"),
        ("bench.training.loop", "from bench.measuring import x"),
        ("bench.training.loop", "from bench import launching"),
        ("bench.training.loop", "from bench.data._files import FileImages"),
        ("bench.training.loop", "from bench.data import _files"),
        ("bench.launching.study", "import mlflow.tracking"),
        ("bench.launching.study", "import ray"),
        ("bench.launching.study", "from torch import nn"),
        ("bench.reporting.rows", "def f():\n    import torch"),
        ("bench.cluster.pool", "import torch"),
        ("bench.cluster.pool", "import optuna"),
        ("bench.cluster.pool", "from ray import tune"),
        ("bench.cluster.board", "import ray"),
        ("bench.records", "from safetensors.torch import save_file"),
        ("bench.methods.lora", "from bench.data import digits"),
        ("bench.methods.lora", "from ..data import digits"),
        ("bench.methods.lora", "import torch"),
        ("bench.measuring.knn", "from bench.spec import Study"),
        ("bench.spec.study", "from bench.records import Record"),
        ("bench.attic", "import os"),
        ("bench.attic.box", "import os"),
        ("bench", "from bench.spec import Study"),
        ("bench.launching.plans", "import launch"),
        ("launch", "import torch"),
        ("bench.trial", "if TYPE_CHECKING:\n    import os\nelse:\n    import ray"),
    ],
)
def test_the_rules_have_teeth(name: str, source: str) -> None:
    assert complaints(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bench.methods.lora", "from bench.methods import _peft\nfrom bench.spec import Study"),
        ("bench.methods.lora", "from . import full\ndef f():\n    import torch"),
        ("bench.methods.brand_new", "from bench.methods._base import Method"),
        ("bench.training.loop", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray"),
        ("bench.launching.study", "from bench import __version__, cluster, trial"),
        ("bench.launching.plans", "import torch"),
        ("bench.cluster.search", "import optuna\nfrom ray import tune"),
        ("bench.reporting.mlflow_store", "import mlflow"),
        ("bench.records", "import bench"),
        ("launch", "from bench.launching import study"),
    ],
)
def test_the_rules_allow_what_they_should(name: str, source: str) -> None:
    assert complaints(name, source) == []


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dear_modules_after(code: str) -> list[str]:
    """Which of the dear libraries a fresh interpreter has loaded once it has run `code`."""
    report = f"import json, sys; print(); print(json.dumps([m for m in {DEAR!r} if m in sys.modules]))"
    loaded: list[str] = json.loads(python(f"{code}\n{report}").splitlines()[-1])
    return loaded


def help_of(how: str) -> str:
    """Code that asks for `--help` in this very interpreter, and goes on afterwards."""
    return (
        "import runpy, sys\n"
        "sys.path.insert(0, '.')\n"
        "sys.argv = ['program', '--help']\n"
        "try:\n"
        f"    runpy.{how}\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code"
    )


def test_what_checks_and_shows_is_cheap_to_import() -> None:
    light = [name for name in MODULES if room(name) in ("spec", "records", "readings", "folder", "methods", "data")]
    light += [name for name in MODULES if room(name) == "launching" and not name.endswith((".study", ".plans"))]
    light += ["bench.reporting.rows", "bench.reporting.leaderboard", "bench.reporting.progress", "launch"]
    assert dear_modules_after("; ".join(f"import {name}" for name in light if "." in name)) == []


@pytest.mark.parametrize(
    "how", ["run_path('launch.py', run_name='__main__')", "run_module('bench', run_name='__main__')"]
)
def test_help_is_cheap(how: str) -> None:
    assert dear_modules_after(help_of(how)) == []
