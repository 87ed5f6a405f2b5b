"""What people give the command line by mistake: it is refused before anything is done, with what is wrong and why."""

from pathlib import Path

import pytest
from beamfleet_server.cli.contexts import Contexts

from tests.server.cli.api_script import TOKEN, ScriptedApi
from tests.server.cli.house import code_of
from tests.server.cli.terminal import Operator

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def anna(api: ScriptedApi, operator: Operator) -> Operator:
    """Somebody with a context for the scripted server."""
    Contexts(operator.directory).save("here", api.url, TOKEN, api.ca.read_bytes())
    return operator


# --- places for what is shown once


@pytest.mark.parametrize(
    "words",
    [
        ("token", "create", "gw-1"),
        ("token", "create", "--batch", "2"),
        ("operator", "create", "ben", "--role", "viewer"),
        ("webhook", "create", "https://hooks.example"),
        ("webhook", "rotate", "1"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("name", "code"), [("folder", "file.failed"), ("nix/x", "file.failed"), ("held", "file.exists"), ("", "file.failed")]
)
def test_a_secret_is_not_made_for_a_place_that_cannot_have_it(
    anna: Operator, api: ScriptedApi, capsys: Capture, tmp_path: Path, words: tuple[str, ...], name: str, code: str
) -> None:
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    (work / "held").write_text("another token\n")
    refused = anna.run(*words, "--out", str(work / name), capsys=capsys)
    assert (refused.code, code_of(refused), api.requests) == (1, code, [])
    assert f"{work / name} " in refused.err
    assert sorted(path.name for path in work.rglob("*")) == ["folder", "held"]
    assert (work / "held").read_text() == "another token\n"
