"""What is refused is one line in the log, whoever it was refused to; of too many there is a number."""

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from beamfleet_server.refusals import LINES_AT_ONCE, Refusals
from structlog.testing import capture_logs

from tests.server.conftest import Centre, open_centre
from tests.support.server import eventually, running_server

HOSTILE = "a\n\x1b[31m\u202egnp.exe"


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    """A server whose log is read."""
    work = tmp_path_factory.mktemp("refusals")
    with running_server(work / "server", log_format="json") as server:
        yield open_centre(work, server)


class Log:
    """The lines that a server has written since this was made."""

    def __init__(self, centre: Centre) -> None:
        self._path = centre.server.log
        self._begin = self._path.stat().st_size

    def refusals(self) -> list[dict[str, Any]]:
        with self._path.open() as file:
            file.seek(self._begin)
            lines = [json.loads(line) for line in file]
        return [line for line in lines if line["event"].endswith("refused")]

    def three(self) -> list[dict[str, Any]] | None:
        """The refusals, when there are three or more."""
        found = self.refusals()
        return found if len(found) >= 3 else None


def test_one_line_tells_who_was_refused_what(centre: Centre) -> None:
    log = Log(centre)
    assert centre.server.api("GET", "/devices/nobody").status_code == 404
    (line,) = log.refusals()
    told = {key: line.get(key) for key in ("event", "level", "code", "status", "method", "path", "address", "target")}
    assert told == {
        "event": "request refused",
        "level": "info",
        "code": "device.unknown",
        "status": 404,
        "method": "GET",
        "path": "/api/v1/devices/nobody",
        "address": "127.0.0.1",
        "target": "nobody",
    }
    assert line["actor"] == "admin"


@pytest.mark.parametrize("listener", ["operators", "enrolment"])
def test_what_no_route_answers_and_what_cannot_be_read_is_told_too(centre: Centre, listener: str) -> None:
    address = centre.server.facts[listener]
    log = Log(centre)
    assert requests.get(f"{address}/nowhere%0A%1B", verify=str(centre.server.ca), timeout=30).status_code == 404
    huge = requests.post(f"{address}/nowhere", b"x" * (9 << 20), verify=str(centre.server.ca), timeout=30)
    assert huge.status_code == 413
    host, _, port = address.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=str(centre.server.ca))
    with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname=host) as connection:
        connection.sendall(b"\x00\x01 nonsense\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    lines = eventually("three lines", log.three)
    assert [line["code"] for line in lines] == ["request.not_found", "request.too_large", "request.malformed"]
    assert lines[0]["path"] == "/nowhere%0A%1B"


def test_a_message_that_is_none_is_a_line_each_time(centre: Centre) -> None:
    device = centre.device("liar")
    log = Log(centre)
    for number in range(3):
        device.publish("health", b"nonsense %d" % number)
    lines = eventually("three lines", log.three)
    assert [(line["device"], line["code"], line["level"]) for line in lines] == [
        ("liar", "message.syntax", "warning")
    ] * 3
    device.close()


def test_the_usual_question_for_the_next_root_is_no_line(centre: Centre, tmp_path: Path) -> None:
    identity = centre.server.enrol("asker", tmp_path)
    log = Log(centre)
    assert centre.server.fetch(identity, "/metadata/2.root.json").status_code == 404
    assert centre.server.fetch(identity, "/packs/none/full").status_code == 422
    assert [line["code"] for line in log.refusals()] == ["request.schema"]


def test_of_one_only_so_many_are_told_and_the_rest_is_a_number() -> None:
    now = [0.0]
    refusals = Refusals("refused", 30, lambda: now[0])
    with capture_logs() as lines:
        for _ in range(LINES_AT_ONCE + 50):
            refusals.tell("loud", "some.code")
        refusals.tell("quiet", "some.code")
        now[0] += 2.0
        refusals.tell("loud", "some.code")
    assert len(lines) == LINES_AT_ONCE + 2
    assert [line.get("untold") for line in lines[-2:]] == [50, None]


def test_a_line_has_no_character_that_the_refused_chose() -> None:
    with capture_logs() as lines:
        Refusals("refused", 30).tell("who", "some.code", path=HOSTILE, long="x" * 5000)
    (line,) = lines
    assert line["path"] == ascii(HOSTILE)[1:-1]
    assert len(line["long"]) == 200
