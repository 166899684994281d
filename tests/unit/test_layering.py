"""The floors of the house: who may import whom, read off the import statements.

See "Rooms" in docs/architecture.md. Imports inside functions count as well; those under
`if TYPE_CHECKING:` do not, because they do not happen.
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

# The first part of a module's name below `bench`, and the floor it lives on.
FLOORS = {
    "spec": 0,
    "aliases": 0,
    "records": 0,
    "probes": 0,
    "parallel": 0,
    "benchmarks": 1,
    "resources": 1,
    "data": 1,
    "backbones": 1,
    "methods": 1,
    "augment": 1,
    "loading": 2,
    "studies": 2,
    "training": 3,
    "prefix": 3,
    "evaluation": 3,
    "trial": 4,
    "pretrain": 4,
    "plans": 5,
    "workers": 5,
    "checkpoints": 5,
    "tracking": 5,
    "leaderboard": 5,
    "progress": 5,
    "search": 6,
    "study": 7,
    "preflight": 8,
    "__main__": 9,
    "launch": 9,
}
KNOW_NOTHING_OF_BENCH = {"bench", "probes", "parallel"}
TORCH = {"torch", "torchvision", "timm", "peft", "transformers", "safetensors.torch"}
WITHOUT_TORCH = {
    "aliases",
    "bench",
    "benchmarks",
    "launch",
    "leaderboard",
    "preflight",
    "progress",
    "records",
    "resources",
    "search",
    "spec",
    "studies",
    "study",
    "tracking",
}
RAY_ONLY_IN = {"workers", "search", "study"}
MLFLOW_ONLY_IN = {"tracking"}
DEAR = ("torch", "ray", "mlflow", "peft", "timm")


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
    """`bench.methods.lora` -> `methods`; the package itself -> `bench`."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "bench"


def is_inside(dotted: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(dotted == package or dotted.startswith(package + ".") for package in packages)


def complaints(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of the module called `name` (`launch`, `bench.methods.lora`, ...)."""
    own = name if name == "launch" else room(name)
    if own != "bench" and own not in FLOORS:
        return [
            f"{name} is in no room yet: add '{own}' to 'Rooms' in docs/architecture.md "
            "and to FLOORS in tests/unit/test_layering.py"
        ]
    package = name if is_package else name.rpartition(".")[0]
    found = set(imported_names(ast.parse(source), package=package))
    return sorted(
        f"{name} imports {target}: {reason}"
        for target in found
        if (reason := objection(own=own, target=target)) is not None
    )


def objection(*, own: str, target: str) -> str | None:
    if is_inside(target, ("ray",)) and own not in RAY_ONLY_IN:
        return f"Ray belongs in {', '.join(sorted(RAY_ONLY_IN))} only"
    if is_inside(target, ("mlflow",)) and own not in MLFLOW_ONLY_IN:
        return "MLflow belongs in tracking only"
    if is_inside(target, TORCH) and own in WITHOUT_TORCH:
        return f"{own} has to work without torch"
    if is_inside(target, ("launch",)):
        return "nothing imports the front door"
    return objection_within_bench(own=own, target=target) if is_inside(target, ("bench",)) else None


def objection_within_bench(*, own: str, target: str) -> str | None:
    other = room(target)
    if own == other:
        return None  # neighbours in one folder, such as two files of bench/methods
    if own in KNOW_NOTHING_OF_BENCH:
        return f"{own} knows nothing of bench"
    if other not in FLOORS:
        return None  # `from bench import __version__`; a module would have been reported by itself
    if FLOORS[other] < FLOORS[own]:
        return None
    return f"floor {FLOORS[own]} may only use floors below it, and {other} is on floor {FLOORS[other]}"


def modules() -> dict[str, Path]:
    files = sorted((ROOT / "bench").rglob("*.py"))
    found = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    found = {name.removesuffix(".__init__"): file for name, file in found.items()}
    launch = ROOT / "launch.py"
    return found | ({"launch": launch} if launch.exists() else {})


MODULES = modules()


@pytest.mark.parametrize("name", MODULES)
def test_imports_keep_to_the_floors(name: str) -> None:
    path = MODULES[name]
    assert not complaints(name, path.read_text(encoding="utf-8"), is_package=path.name == "__init__.py")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bench.training", "import ray"),
        ("bench.training", "def f():\n    from ray import train"),
        ("bench.training", "from bench.evaluation import x"),
        ("bench.training", "from bench import study"),
        ("bench.study", "import mlflow.tracking"),
        ("bench.study", "from torch import nn"),
        ("bench.records", "from safetensors.torch import save_file"),
        ("bench.methods.lora", "from bench.data import digits"),
        ("bench.methods.lora", "from ..data import digits"),
        ("bench.probes", "from bench.spec import Study"),
        ("bench.workers", "from bench.search import search"),
        ("bench.attic", "import os"),
        ("bench", "from bench.spec import Study"),
        ("launch", "import torch"),
        ("bench.trial", "if TYPE_CHECKING:\n    import os\nelse:\n    import ray"),
    ],
)
def test_the_rules_have_teeth(name: str, source: str) -> None:
    assert complaints(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("bench.methods.lora", "from bench.methods import full\nfrom bench.spec import Study"),
        ("bench.methods.lora", "from . import full\nimport torch"),
        ("bench.training", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray"),
        ("bench.study", "from bench import __version__, search, trial\nimport ray"),
        ("bench.records", "import bench"),
        ("launch", "from bench import study"),
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


def test_importing_bench_and_what_needs_no_torch_is_cheap() -> None:
    light = sorted({"benchmarks", "leaderboard", "records", "spec"} & {room(name) for name in MODULES})
    assert dear_modules_after("; ".join(f"import bench.{name}" for name in light) or "import bench") == []


def test_launch_help_is_cheap() -> None:
    if not (ROOT / "launch.py").exists():
        pytest.skip("launch.py is not written yet")
    assert "--study" in python(help_of("run_path('launch.py', run_name='__main__')"))
    assert dear_modules_after(help_of("run_path('launch.py', run_name='__main__')")) == []


def test_module_help_is_cheap() -> None:
    if not (ROOT / "bench" / "__main__.py").exists():
        pytest.skip("bench/__main__.py is not written yet")
    assert dear_modules_after(help_of("run_module('bench', run_name='__main__')")) == []
