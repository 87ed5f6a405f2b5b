"""`beamfleet webhook` and the stream behind `beamfleet events --follow`, against a real server and real receivers."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_server.cli import main
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.streaming import read_stream

from tests.server.cli.terminal import COMMAND, Ended, Operator, clean_environment
from tests.support.receiver import Receiver, answers
from tests.support.server import Server, eventually, running_server

Capture = pytest.CaptureFixture[str]


class Desk:
    """An operator who has logged in to a server."""

    def __init__(self, server: Server, work: Path, capsys: Capture) -> None:
        self.server, self.capsys, self.work = server, capsys, work
        self.operator = Operator(work / "operator")
        token, ca = server.data / "admin.token", server.ca
        words = ["login", server.facts["operators"], "--token-file", str(token), "--ca", str(ca)]
        assert main(["--config-dir", str(self.operator.directory), *words]) == 0

    def run(self, *words: str, code: int = 0) -> Ended:
        ended = self.operator.run(*words, capsys=self.capsys)
        assert ended.code == code, ended
        return ended

    def json(self, *words: str) -> Any:
        return self.run(*words, "-o", "json").json


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("cli-webhooks")
    with running_server(work / "server", webhook_networks="127.0.0.0/8", webhook_retry_for_s=1) as server:
        yield server


@pytest.fixture
def desk(server: Server, tmp_path: Path, capsys: Capture) -> Iterator[Desk]:
    yield Desk(server, tmp_path, capsys)
    for hook in server.get("/webhooks")["items"]:
        server.api("DELETE", f"/webhooks/{hook['id']}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_a_webhook_is_made_tested_and_listed_and_its_secret_is_shown_once(desk: Desk, receiver: Receiver) -> None:
    made = desk.run("webhook", "create", receiver.url, "--kind", "rollout", "--cause", "halted")
    (secret,) = made.out.splitlines()
    assert secret.startswith("whsec_")
    assert "gets rollout: halted" in made.err
    (listed,) = desk.json("webhook", "list")
    tested = desk.run("webhook", "test", str(listed["id"]))
    assert "was taken: 204" in tested.out
    assert receiver.wait()[0].signed_by(secret)
    for words in (("list",), ("show", str(listed["id"])), ("deliveries", str(listed["id"]))):
        shown = desk.run("webhook", *words)
        assert secret not in shown.out + shown.err
    assert "webhook.test" in desk.run("webhook", "deliveries", str(listed["id"])).out


def test_a_secret_may_go_into_a_file_of_its_owner(desk: Desk, receiver: Receiver, tmp_path: Path) -> None:
    out = tmp_path / "hook.secret"
    made = desk.json("webhook", "create", receiver.url, "--out", str(out))
    assert (made["secret"], out.stat().st_mode & 0o777) == (None, 0o600)
    rotated = desk.json("webhook", "rotate", str(made["id"]), "--overlap", "0s")
    assert rotated["old_secret_until"] is None
    assert rotated["secret"] not in out.read_text()
    assert desk.json("webhook", "rotate", str(made["id"]))["old_secret_until"] is not None


def test_what_was_given_up_is_seen_and_sent_again(desk: Desk, receiver: Receiver) -> None:
    receiver.behave = answers(500)
    number = str(desk.json("webhook", "create", receiver.url, "--kind", "enrolled")["id"])
    desk.server.enrol("cli-1", desk.work)
    (failed,) = eventually("a failure", lambda: desk.json("webhook", "deliveries", number, "--failed"), 60)
    assert failed["error"] == "it answered 500"
    assert "failed" in desk.run("webhook", "deliveries", number).out
    refused = desk.run("webhook", "test", number, code=1)
    assert "was not taken: it answered 500 (webhook.not_taken)" in refused.err
    receiver.behave = answers(200)
    assert desk.json("webhook", "redeliver", number, str(failed["id"]))["redelivered"] == 1
    eventually(
        "its delivery",
        lambda: [row for row in desk.json("webhook", "deliveries", number) if row["state"] == "delivered"],
    )
    assert desk.json("webhook", "redeliver", number, "--failed")["redelivered"] == 1, "the test"
    assert "usage.deliveries" in desk.run("webhook", "redeliver", number, code=2).err


def test_a_webhook_is_stopped_goes_on_and_ends(desk: Desk, receiver: Receiver) -> None:
    number = str(desk.json("webhook", "create", receiver.url, "--kind", "enrolled")["id"])
    desk.run("webhook", "disable", number)
    assert "disabled by admin" in desk.run("webhook", "show", number).out
    desk.server.enrol("cli-2", desk.work)
    desk.run("webhook", "enable", number, "--from-now")
    desk.server.enrol("cli-3", desk.work)
    assert receiver.wait()[0].json["event"]["device"] == "cli-3"
    desk.run("webhook", "delete", number)
    assert "webhook.unknown" in desk.run("webhook", "show", number, code=1).err


def test_events_are_followed_by_kind_over_a_kill_of_the_server_without_gap_or_double(
    tmp_path: Path, capsys: Capture
) -> None:
    with running_server(tmp_path / "server") as server:
        desk = Desk(server, tmp_path, capsys)
        log = tmp_path / "events"
        environment = clean_environment() | {"BEAMFLEET_CONFIG_DIR": str(desk.operator.directory)}
        words = [str(COMMAND), "events", "--follow", "--kind", "enrolled", "-o", "json"]
        with log.open("wb") as out:
            process = subprocess.Popen(words, stdout=out, stderr=subprocess.PIPE, env=environment, text=True)

        def devices() -> list[str]:
            return [json.loads(line)["device"] for line in log.read_text().splitlines() if line.endswith("}")]

        try:
            server.enrol("follow-1", tmp_path)
            eventually("the first", lambda: devices() == ["follow-1"])
            server.kill()
            server.start()
            server.enrol("follow-2", tmp_path)
            server.enrol("follow-3", tmp_path)
            eventually("the rest", lambda: devices() == ["follow-1", "follow-2", "follow-3"])
        finally:
            process.send_signal(2)
            _, told = process.communicate(timeout=30)
        assert process.returncode == 130
        assert told.splitlines()[-1] == "the server answers again"


def test_a_stream_is_read_block_by_block() -> None:
    lines = [
        ": alive",
        "",
        "retry: 2000",
        "id: 4",
        "",
        "id: 5",
        'data: {"id": 5}',
        "",
        "id: x",
        "data: {}",
        "",
        "id: 6",
    ]
    assert list(read_stream(lines)) == [(4, None), (5, {"id": 5})]
    with pytest.raises(CommandError, match="is none"):
        list(read_stream(["id: 1", "data: [1]", ""]))
