"""Where the code and its studies lie. In a clone ``search_spaces/`` stands beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent.parent

_INSIDE = PACKAGE / "search_spaces"

CLONE: Path | None = None if _INSIDE.is_dir() else PACKAGE.parent
"""The folder of the project; None where the package was installed from a wheel."""

STUDIES = PACKAGE.parent / "search_spaces" if CLONE else _INSIDE
"""The folder of the studies that have a name."""
