"""The documentation: links lead somewhere, every page is in the site, and the reference names all there is."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import methods
from bench.launching import studies
from bench.launching.request import FLAGS
from bench.reporting import events
from bench.spec import LaunchOptions, Study, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MADE = ("fields", "commands", "events", "catalogue", "api")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(generate: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The pages that are made from the code."""
    folder = tmp_path_factory.mktemp("reference")
    generate.write(folder)
    return {path.stem: path.read_text() for path in folder.iterdir()}


def anchors(text: str) -> set[str]:
    """What GitHub and the site call the headings of a page."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_lead_somewhere(page: Path, made: dict[str, str]) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        if name.startswith("reference/"):
            target = made[Path(name).stem]
        else:
            path = (page.parent / name).resolve() if name else page
            assert path.is_file(), link
            target = path.read_text() if path.suffix == ".md" else ""
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_site() -> None:
    listed = set(re.findall(r"^([a-z/-]+)$", (DOCS / "index.md").read_text(), re.M))
    assert listed == {page.stem for page in PAGES} - {"index"} | {f"reference/{name}" for name in MADE}


def test_the_reference_names_every_field_flag_event_study_and_command(made: dict[str, str]) -> None:
    assert set(made) == set(MADE)
    for name in (*LaunchOptions.model_fields, *set(Study.model_fields) - {"name", "repeat"}):
        assert f"\n| `{name}` |" in made["fields"]
    for name in TrainConfig.model_fields:
        assert f"\n| `train.{name}` |" in made["fields"]
    for name in methods.names():
        assert f"\n### {name}\n" in made["fields"]
        assert all(f"\n| `{field}` |" in made["fields"] for field in methods.fields(name))
    for flag in FLAGS:
        assert f"(`{flag.option}`)" in made["fields"]
        assert f"{flag.option}" in made["commands"]
    for command in ("pack", "unpack", "leaderboard", "sync"):
        assert f"\n## python -m bench {command}\n" in made["commands"]
    for kind in events.EVENTS:
        assert f"\n## {kind.model_fields['event'].default}\n" in made["events"]
    assert all(f"| `{name}` |" in made["catalogue"] for name in studies.names())


def test_every_field_of_a_launch_a_study_and_a_recipe_says_what_it_does() -> None:
    fields = {**LaunchOptions.model_fields, **TrainConfig.model_fields, **Study.model_fields}
    told_by_the_page = {"name", "method", "train"}
    assert {name for name, about in fields.items() if not about.description and not about.exclude} <= told_by_the_page


def test_the_public_api_has_docstrings(generate: ModuleType) -> None:
    for module, names in generate.PUBLIC.items():
        found = importlib.import_module(module)
        assert [name for name in names if not (getattr(found, name).__doc__ or "").strip()] == []


@pytest.mark.slow
def test_the_site_is_made_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="`make docs` installs it")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--builder", "html"]
    done = subprocess.run([*command, "docs", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    assert "A method with its hyper-parameters." in (tmp_path / "reference" / "api.html").read_text()
