"""The locks: complete, hashed, and silent about where packages come from."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.repo.tree import DISTRIBUTIONS, ROOT

LOCKS = {
    "agent": ("beamfleet-agent", "beamfleet-bundles"),
    "server": ("beamfleet-server", "beamfleet-bundles"),
    "dev": ("beamfleet-agent", "beamfleet-server", "beamfleet-bundles"),
}


def pins(name: str) -> dict[str, tuple[str, int]]:
    """The packages of a lock: version and number of hashes by name."""
    text = (ROOT / f"requirements/{name}.lock").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        pinned = re.fullmatch(r"([a-z0-9-]+)==(\S+)( ;.*?)?((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert pinned, f"requirements/{name}.lock has a line of another shape: {line[:100]}"
        found[pinned[1]] = (pinned[2], pinned[4].count("--hash"))
    return found


def wanted(name: str) -> list[Requirement]:
    """What the distributions behind a lock declare that they need, themselves left out."""
    declared: list[str] = []
    for distribution in LOCKS[name]:
        project = tomllib.loads((DISTRIBUTIONS[distribution].parent / "pyproject.toml").read_text())["project"]
        declared += project["dependencies"]
        if name != "agent":
            declared += [line for extra in project.get("optional-dependencies", {}).values() for line in extra]
    if name == "dev":
        declared += tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    return [need for need in map(Requirement, declared) if need.name not in DISTRIBUTIONS]


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_of_a_lock_is_a_pin_with_hashes(name: str) -> None:
    assert min(count for _, count in pins(name).values()) >= 1


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_address_and_no_path(name: str) -> None:
    text = (ROOT / f"requirements/{name}.lock").read_text()
    assert re.findall(r"\S*(?:://|file:|@)\S*|(?:^|\s)[./]\S*|^-.*$", text, re.MULTILINE) == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_satisfies_what_the_distributions_declare(name: str) -> None:
    locked = pins(name)
    unmet = [
        str(need)
        for need in wanted(name)
        if (pin := locked.get(canonicalize_name(need.name))) is None
        or not need.specifier.contains(pin[0], prereleases=True)
    ]
    assert unmet == []


def test_the_dev_lock_agrees_with_what_is_shipped() -> None:
    dev = pins("dev")
    for name in ("agent", "server"):
        assert {package: pin for package, pin in pins(name).items() if dev.get(package) != pin} == {}
