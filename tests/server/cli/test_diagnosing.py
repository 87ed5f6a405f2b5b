"""What people see of a device that does not give what it is asked for, and of a log that is longer than it may be."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.cli import client, diagnosing
from beamfleet_server.cli.contexts import Contexts

from tests.server.cli.api_script import Answer, ScriptedApi, problem
from tests.server.cli.house import code_of
from tests.server.cli.terminal import Ended, Operator
from tests.support.fleet import free_port

Capture = pytest.CaptureFixture[str]
WORD = "0123456789abcdef"
ASKED = {"id": WORD, "device": "gw-1", "time": "2026-11-29T15:00:00Z", "state": "asked", "bytes": 0,
         "recipients": [{"name": "anna", "key": "0" * 16}]}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosing, "PAUSE_S", 0.0)
    monkeypatch.setattr(diagnosing, "AGAIN_S", 0.0)


@pytest.fixture
def anna(api: ScriptedApi, operator: Operator) -> Operator:
    """Somebody who has logged in to the scripted server."""
    token = operator.directory.parent / "token"
    token.write_text("token-of-the-test")
    api.script(Answer({"name": "anna", "role": "operator", "scopes": []}), Answer({"metadata": {"root": 1}}))
    made = operator.child("login", api.url, "--token-file", str(token), "--ca", str(api.ca))
    assert made.code == 0, made.err
    api._answers.clear()
    return operator


def listed(**held: Any) -> Answer:
    return Answer({"items": [{**ASKED, **held}], "next": None})


def events(*items: Any) -> Answer:
    return Answer({"items": list(items), "next": None})


def stream(*messages: Any) -> Answer:
    told = "".join(f": alive\n\ndata: {json.dumps(message)}\n\n" for message in messages)
    return Answer(raw=told.encode(), headers={"Content-Type": "text/event-stream"})


def lines(*said: str, missed: int = 0, end: bool = False, **more: Any) -> dict[str, Any]:
    return {"lines": list(said), "missed": missed, "end": end, **more}


def test_what_the_device_says_went_wrong_is_the_error(anna: Operator, api: ScriptedApi, capsys: Capture) -> None:
    failure = {"cause": "evidence.no_key", "detail": "nobody is named", "data": {"command": WORD}}
    other = {"cause": "worker.network", "detail": "another matter", "data": {}}
    api.script(Answer(ASKED, 202), listed(bytes=1_500_000), events(other), listed(), events(other, failure))
    ended = anna.run("device", "diagnose", "gw-1", capsys=capsys)
    assert (ended.code, code_of(ended)) == (1, "evidence.no_key")
    assert "gw-1 gathers it, sealed for anna" in ended.err
    assert "1.5 MB have come" in ended.err


def test_what_does_not_come_in_time_ends_with_the_code_for_deadlines(
    anna: Operator, api: ScriptedApi, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosing, "parse_duration", lambda _text: 0)
    api.script(Answer(ASKED, 202), listed(), events())
    ended = anna.run("device", "diagnose", "gw-1", "--timeout", "1s", capsys=capsys)
    assert (ended.code, code_of(ended)) == (5, "evidence.late")


@pytest.mark.parametrize("code", ["evidence.no_key", "device.offline", "device.old_agent"])
def test_a_refusal_of_the_server_is_told_as_it_is(anna: Operator, api: ScriptedApi, capsys: Capture, code: str) -> None:
    api.script(problem(409, code))
    ended = anna.run("device", "diagnose", "gw-1", capsys=capsys)
    assert (ended.code, code_of(ended)) == (1, code)


def test_a_log_is_lines_with_a_word_about_those_that_are_missing(
    anna: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    api.script(stream(lines("one", "\x1b[31mred", missed=3), lines("two"), lines(end=True)))
    ended = anna.run("logs", "gw-1", "--lines", "5", capsys=capsys)
    assert ended.out.splitlines() == ["one", "\\x1b[31mred", "two"]
    assert "3 lines were left out" in ended.err
    assert api.paths[-1].endswith("/devices/gw-1/logs?lines=5&follow=false")


def test_a_log_that_is_followed_goes_on_without_doubles_until_the_device_is_gone(
    anna: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    silent = lines(end=True, why="the device does not answer")
    api.script(stream(lines("one")), stream(lines("two"), lines(end=True)), stream(silent))
    ended = anna.run("logs", "gw-1", "--follow", "-o", "json", capsys=capsys)
    first, second, *refusal = ended.out.splitlines()
    assert [json.loads(line) for line in (first, second)] == [
        {"device": "gw-1", "line": "one"},
        {"device": "gw-1", "line": "two"},
    ]
    assert (ended.code, json.loads("".join(refusal))["code"]) == (1, "server.timeout")
    assert ["lines=100" in api.paths[-3], "lines=0" in api.paths[-2], "lines=0" in api.paths[-1]] == [True] * 3


def test_a_log_of_a_server_that_is_away_is_not_waited_for(operator: Operator, tmp_path: Path, capsys: Capture) -> None:
    Contexts(operator.directory).save("away", f"https://127.0.0.1:{free_port()}", "t", b"")
    began = time.monotonic()
    ended = operator.run("logs", "gw-1", "--follow", capsys=capsys)
    assert (ended.code, code_of(ended)) == (1, "server.unreachable")
    assert time.monotonic() - began < 20


def test_a_followed_log_waits_for_a_server_that_was_there(
    anna: Operator, api: ScriptedApi, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", 0.0)
    api.script(stream(lines("one")), *[Answer(status=503)] * 3, stream(lines(end=True, why="gone")))
    ended = anna.run("logs", "gw-1", "--follow", capsys=capsys)
    assert (ended.out, code_of(ended)) == ("one\n", "server.timeout")


def test_a_stream_that_is_none_is_refused(anna: Operator, api: ScriptedApi, capsys: Capture) -> None:
    for raw in (b"data: {\n\n", b"data: []\n\n", b'data: {"lines": 7}\n\n'):
        api.script(Answer(raw=raw))
        ended: Ended = anna.run("logs", "gw-1", capsys=capsys)
        assert (ended.code, code_of(ended)) == (1, "server.malformed")
