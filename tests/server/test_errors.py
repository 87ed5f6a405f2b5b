"""The codes of the server: the table in the README is what the code has."""

import re
from pathlib import Path

import pytest
from beamfleet_bundles import errors as bundles
from beamfleet_bundles.errors import BundleError
from beamfleet_server import errors
from beamfleet_server.errors import STATUS, TITLES, ServerError, status_of

PACKAGE = Path(errors.__file__).parent


def test_the_readme_lists_every_code_with_its_status_and_no_other() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\d+) \|", (PACKAGE.parent / "README.md").read_text(), re.MULTILINE)
    assert {code: int(status) for code, status in rows} == STATUS


def test_every_code_is_used_somewhere() -> None:
    roots = (PACKAGE, Path(bundles.__file__).parent)
    text = "\n".join(path.read_text() for root in roots for path in root.rglob("*.py") if path != Path(errors.__file__))
    unused = [each for each in STATUS if f'"{each}"' not in text]
    assert unused == []


def test_an_unknown_code_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        ServerError("server.nonsense", "x")


def test_what_a_bundle_did_wrong_is_422() -> None:
    assert status_of(BundleError("manifest.order", "x")) == 422
    assert set(STATUS.values()) <= TITLES.keys()


def test_the_page_about_rollouts_lists_every_way_in_which_a_plan_is_wrong() -> None:
    rules = "\n".join(path.read_text() for path in (PACKAGE / "fleet").glob("*.py"))
    raised = {f"plan.{code}" for code in re.findall(r'\brefused\(\s*"([a-z_]+)", ', rules)}
    page = (PACKAGE.parent / "ROLLOUTS.md").read_text()
    assert set(re.findall(r"^\| `(plan\.[a-z_]+)` \|", page, re.MULTILINE)) == raised
