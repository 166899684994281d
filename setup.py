"""What pyproject.toml cannot say: a wheel holds the studies of ``search_spaces/`` inside the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithStudies(build_py):
    """Copies the studies to where ``bench/launching/project.py`` finds them; a clone reads its own folder."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_tree("search_spaces", str(Path(self.build_lib, "bench", "search_spaces")))


setup(cmdclass={"build_py": BuildWithStudies})
