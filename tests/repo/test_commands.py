"""The ways in: README, ./dev and .ci/run say the same and refuse what they do not know."""

import re
import subprocess

import pytest

from tests.repo.tree import ROOT

BY_HAND = {"slow", "arm64", "upgrade"}
"""Suites that continuous integration leaves out, as it says itself."""


def dev(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ./dev with arguments that need no setup."""
    return subprocess.run([ROOT / "dev", *arguments], capture_output=True, text=True, check=False, timeout=30)


def test_readme_shows_exactly_the_two_commands_that_set_up() -> None:
    readme = (ROOT / "README.md").read_text()
    section = re.search(r"^## Try it\n(.*?)^## ", readme, re.MULTILINE | re.DOTALL)
    assert section
    commands = [
        line.split("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", section[1], re.DOTALL)
        for line in block.splitlines()
    ]
    assert commands == ["./dev demo", "./dev test"]
    assert re.findall(r"pip install|apt(?:-get)? install|-m venv", readme) == []


@pytest.mark.parametrize(
    "arguments", [("nothing",), ("test", "nothing"), ("bench", "nothing"), ("bench",), ("check", "nothing")]
)
def test_dev_refuses_what_it_does_not_know(arguments: tuple[str, ...]) -> None:
    refused = dev(*arguments)
    assert refused.returncode == 2
    assert re.match(r"\./dev: error: .+\n\./dev: hint: .+\n", refused.stderr)
    assert refused.stdout == ""


def test_dev_help_names_every_command() -> None:
    documented = set(re.findall(r"^  ([a-z]+)\b", dev("help").stdout.split("examples:")[0], re.MULTILINE))
    assert documented == {"demo", "test", "check", "bench", "package", "setup", "lock", "help"}


def test_continuous_integration_knows_every_further_suite() -> None:
    script = (ROOT / ".ci/run").read_text()
    known = re.search(r"FURTHER_SUITES=\((.*)\)", script)
    assert known
    assert set(dev("test", "--list").stdout.split()) - BY_HAND <= set(known[1].split())
    assert script.index("./dev test") < script.index("./dev check")


def test_every_benchmark_can_be_named_to_dev() -> None:
    runnable = {path.stem for path in (ROOT / "tests/bench").glob("*.py") if "__main__" in path.read_text()}
    assert set(dev("bench", "--list").stdout.split()) == runnable


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).is_file()] == []
