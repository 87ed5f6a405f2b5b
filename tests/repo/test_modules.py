"""The rules for modules: a docstring, a size one can see whole, a name that is a noun of the field."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.repo.tree import DISTRIBUTIONS, ROOT, package_modules, shown, tracked_files

LINE_CAP = 450
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}


def test_every_package_module_says_what_it_owns() -> None:
    mute = [shown(path) for path in package_modules() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert mute == []


def test_no_module_is_longer_than_the_cap() -> None:
    lengths = {shown(path): len(path.read_text().splitlines()) for path in tracked_files() if path.suffix == ".py"}
    assert {name: length for name, length in lengths.items() if length > LINE_CAP} == {}


def test_no_file_has_a_name_that_means_nothing() -> None:
    parts = {
        shown(path): {part.split(".")[0].lower() for part in path.relative_to(ROOT).parts} for path in tracked_files()
    }
    assert [name for name, words in parts.items() if words & EMPTY_NAMES] == []


def test_the_import_contracts_are_kept() -> None:
    lint = subprocess.run(
        [Path(sys.prefix) / "bin/lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_the_distributions_are_typed_and_share_one_version_with_the_changelog() -> None:
    versions = set()
    for package in DISTRIBUTIONS.values():
        assert (package / "py.typed").is_file(), package
        found = re.search(r'^__version__ = "(.+)"$', (package / "__init__.py").read_text(), re.MULTILINE)
        assert found, package
        versions.add(found[1])
    link = re.search(
        r'{vsn, "(.+)"}', (ROOT / "firmware_bundles/beamfleet_link/src/beamfleet_link.app.src").read_text()
    )
    assert link
    versions.add(link[1])
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert versions == {newest[1]}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_wheel_carries_every_file_of_its_package(name: str, tmp_path: Path) -> None:
    import zipfile

    package = DISTRIBUTIONS[name]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=package.parent,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.relative_to(package.parent).as_posix() for path in tracked_files() if path.is_relative_to(package)}
    artifacts = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    wanted |= set(artifacts.get("artifacts", ()))
    assert wanted - carried == set()
