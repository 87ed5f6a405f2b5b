"""README.md tells the codes and settings that the code has, and no others."""

import ast
import re

from beamfleet_agent import journal, settings
from beamfleet_agent.journal import Ledger
from beamfleet_agent.update_state import State

from tests.repo.tree import DISTRIBUTIONS, ROOT

README = (ROOT / "agent/README.md").read_text()
OURS = re.compile(r"(agent|boot|certificate|enrol|evidence|renew|setup|slot|update|worker)\.[a-z_]+")
RAISING = {"AgentError", "LaterError", "RefusedError", "UntrustedError", "Failed", "Tell", "_refusal", "_damaged"}


def codes_in_the_code() -> set[str]:
    """Every code that is raised, reported, or given as the reason of an update."""
    found = set()
    for path in DISTRIBUTIONS["beamfleet-agent"].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            texts: list[ast.expr] = []
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                texts += node.args[:1] if name in RAISING else []
                texts += [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            elif isinstance(node, ast.Dict):
                texts += [
                    value
                    for key, value in zip(node.keys, node.values, strict=True)
                    if isinstance(key, ast.Constant) and key.value == "code"
                ]
            for text in texts:
                found |= {
                    part.value
                    for part in ast.walk(text)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str) and OURS.fullmatch(part.value)
                }
    return found


def test_the_table_of_errors_is_the_code() -> None:
    table = README.split("## Errors")[1]
    told = set(re.findall(r"^\| `([a-z_.]+)` \|", table, re.MULTILINE))
    assert told == codes_in_the_code()


def test_every_setting_is_told_with_its_default() -> None:
    told = dict(re.findall(r"^\| `([a-z_]+)` \| (\S+) \|", README.split("## Files")[1], re.MULTILINE))
    defaults = settings.Settings("gw-1")._asdict()
    del defaults["server"]
    spelled = {key: f'`"{value}"`' if isinstance(value, str) else str(value).lower() for key, value in defaults.items()}
    assert told == {**spelled, "device": "–"}  # noqa: RUF001


def test_every_key_of_the_journal_is_told() -> None:
    section = README.split("is one JSON object")[1].split("It may be lost")[0]
    told = {key for cell in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)}
    import json

    assert told == set(json.loads(journal.encode(State(), Ledger()))["content"])
