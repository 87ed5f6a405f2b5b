"""SECURITY.md: every attacker has a row, every row has tests, every test that is named is there."""

import ast
import re

import pytest

from tests.repo.tree import ROOT

ATTACKERS = (
    "network without a key",
    "proxy on the way",
    "replay, freeze, mix-and-match",
    "clock at 1970, at 2040, jumping",
    "stolen device",
    "cloned device",
    "compromised broker",
    "compromised server with all online keys",
    "one offline key, or the key of a product",
    "malicious operator",
    "signed but bad release",
    "rogue device that floods",
    "power cut anywhere",
)
TEST = re.compile(r"tests/[\w/]+\.py(?:::\w+)+")


def rows() -> dict[str, list[str]]:
    """The cells of the threat model, by attacker."""
    section = (ROOT / "SECURITY.md").read_text().split("\n## Threat model\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert cells[0] == ["attacker", "what holds", "how", "tests"]
    return {row[0]: row for row in cells[1:]}


def named() -> list[str]:
    return sorted({name for row in rows().values() for name in TEST.findall(row[-1])})


def test_every_attacker_has_a_row_that_says_what_holds_and_how() -> None:
    assert tuple(rows()) == ATTACKERS
    assert [attacker for attacker, row in rows().items() if len(row) != 4 or not all(row)] == []


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_every_row_names_tests_and_nothing_else(attacker: str) -> None:
    cells = rows()[attacker][-1].split("<br>")
    assert [cell for cell in cells if not TEST.fullmatch(cell.strip("`"))] == []
    assert len(cells) >= 2


@pytest.mark.parametrize("name", named())
def test_every_test_that_is_named_is_there(name: str) -> None:
    path, *parts = name.split("::")
    found: ast.stmt | ast.Module = ast.parse((ROOT / path).read_text())
    for part in parts:
        assert isinstance(found, ast.Module | ast.ClassDef)
        inside = {node.name: node for node in found.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert part in inside, f"{part} is not in {path}"
        found = inside[part]
    assert parts[-1].startswith("test_")
    assert isinstance(found, ast.FunctionDef)
