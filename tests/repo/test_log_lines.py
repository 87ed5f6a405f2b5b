"""Log lines: the same thing has the same name on both sides, and its name is in the README."""

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.repo.tree import DISTRIBUTIONS, ROOT

LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
LOGGERS = re.compile(r"(self\.)?_?log|structlog\.get_logger\(\)|self\._refusals|REQUESTS")
SYNONYMS = {
    "reason": "detail", "message": "detail", "msg": "detail", "error": "code", "why": "detail", "says": "detail",
    "time": "timestamp", "ts": "timestamp", "severity": "level", "device_id": "device", "node": "device",
    "trace": "trace_id", "exc": "exception",
}  # fmt: skip
"""Names that a line may not have, and what they would be another word for. (`message` is said below.)"""
OF_WEBHOOKS = "a webhook was not taken"
"""Has the `message` of the delivery, which is its id by the standard of webhooks."""


def readme_names() -> list[str]:
    """The names in the README's table of log lines."""
    section = (ROOT / "server/README.md").read_text().split("## Log lines\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)


NAMES = readme_names()


@cache
def calls() -> tuple[tuple[str, str, set[str]], ...]:
    """Each line that agent, worker and server can write."""
    return tuple(_calls())


def _calls() -> Iterator[tuple[str, str, set[str]]]:
    """(place, event, names of facts) of each line that agent, worker and server can write."""
    for package in ("beamfleet-agent", "beamfleet-server"):
        for path in sorted(DISTRIBUTIONS[package].rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if node.func.attr in LEVELS and LOGGERS.fullmatch(ast.unparse(node.func.value)):
                    said = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else ""
                    place = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield place, str(said), {keyword.arg for keyword in node.keywords if keyword.arg}


def test_there_are_lines_to_look_at() -> None:
    assert len(calls()) > 60


def test_no_line_has_another_name_for_what_has_one() -> None:
    wrong = [
        (place, name, SYNONYMS[name])
        for place, said, names in calls()
        for name in sorted(names & SYNONYMS.keys())
        if (said, name) != (OF_WEBHOOKS, "message")
    ]
    assert wrong == []


def test_what_has_a_code_has_words_as_well() -> None:
    """Or is a refused request, whose code says it all."""
    bare = [(place, said) for place, said, names in calls() if "code" in names and not names & {"detail", "kind"}]
    assert [(place, said) for place, said in bare if said not in ("", "alarm is over")] == []


def test_the_names_that_both_sides_share_are_in_the_readme() -> None:
    assert {"timestamp", "level", "event", "device", "code", "detail", "trace_id"} <= set(NAMES)
    used = {side: set[str]() for side in ("agent", "server")}
    for place, _, names in calls():
        used[place.partition("/")[0]] |= names
    shared = used["agent"] & used["server"]
    assert sorted(shared - set(NAMES)) == []
