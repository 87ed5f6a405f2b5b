"""The connection, against a scripted HTTPS server that errs in the ways that servers and networks do."""

import io
import socket
from pathlib import Path

import pytest
from beamfleet_server.cli.client import Client
from beamfleet_server.cli.errors import CommandError, RemoteError
from beamfleet_server.errors import ServerError

from tests.server.cli.api_script import TOKEN, Answer, ScriptedApi, make_certificate, problem
from tests.server.cli.test_following import Time


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def client(api: ScriptedApi, time: Time) -> Client:
    return api.client(time.pause, time.clock)


def test_a_problem_becomes_an_error_with_the_servers_code_message_and_hint(api: ScriptedApi, client: Client) -> None:
    api.script(problem(422, "rollout.no_devices", "no device has site=bonn", "device list shows labels"))
    with pytest.raises(RemoteError) as refused:
        client.post("/rollouts", {})
    error = refused.value
    assert (error.code, error.message, error.hint, error.status) == (
        "rollout.no_devices", "no device has site=bonn", "device list shows labels", 422,
    )  # fmt: skip


def test_the_token_goes_in_the_header_and_netrc_is_not_asked(
    api: ScriptedApi, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    api.script(Answer({}))
    client.get("/whoami")
    assert api.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_a_certificate_authority_in_the_environment_does_not_replace_the_pinned_one(
    api: ScriptedApi, time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_certificate(other / "key", other / "ca.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(api.ca))
    impostor_ca = Client(api.url, other / "ca.pem", lambda: TOKEN, pause=time.pause, clock=time.clock)
    with pytest.raises(CommandError) as refused:
        impostor_ca.get("/whoami")
    assert refused.value.code == "server.untrusted"
    assert api.requests == []


def test_a_get_is_tried_again_until_patience_ends(api: ScriptedApi, client: Client, time: Time) -> None:
    heard: list[ServerError] = []
    api.script(Answer(drop=True), problem(503, "server.stopping"), Answer({"ok": 1}))
    assert client.get("/health", patience_s=60, on_trouble=heard.append) == {"ok": 1}
    assert [error.code for error in heard] == ["server.unreachable", "server.stopping"]
    assert 0 < time.now < 60


def test_pauses_grow_and_stay_below_five_seconds(
    api: ScriptedApi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    time = Time()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.pause(seconds)

    api.script(*[Answer(drop=True)] * 12, Answer({}))
    api.client(pause, time.clock).get("/health", patience_s=600)
    assert max(pauses) <= 5
    assert pauses[-1] > 3 * pauses[0]


@pytest.mark.parametrize("send", [Client.post, Client.patch])
def test_what_changes_something_is_sent_once(api: ScriptedApi, client: Client, send: object) -> None:
    api.script(Answer(drop=True), Answer({}))
    with pytest.raises(CommandError) as refused:
        send(client, "/devices/gw-1", {})  # type: ignore[operator]
    assert refused.value.code == "server.unreachable"
    assert len(api.requests) == 1


def test_an_upload_is_streamed_with_its_length(api: ScriptedApi, client: Client, tmp_path: Path) -> None:
    (tmp_path / "x.bundle").write_bytes(b"bytes" * 1000)
    api.script(Answer({"already": False}, 201))
    with (tmp_path / "x.bundle").open("rb") as content:
        assert client.upload("/bundles", content) == {"already": False}
    request = api.requests[0]
    assert (request.headers["Content-Length"], request.headers["Content-Type"]) == ("5000", "application/octet-stream")
    assert request.body == b"bytes" * 1000


def test_an_upload_starts_again_from_its_beginning_when_the_server_went_away(api: ScriptedApi, client: Client) -> None:
    api.script(Answer(drop=True), Answer({"already": True}))
    assert client.upload("/bundles", io.BytesIO(b"bytes")) == {"already": True}
    assert [request.body for request in api.requests] == [b"bytes", b"bytes"]


def test_what_the_server_takes_once_is_sent_until_it_answers(api: ScriptedApi, client: Client) -> None:
    api.script(Answer(drop=True), problem(503, "server.busy", "starting", ""), Answer({"id": 7}, 201))
    assert client.post_again("/rollouts", {"key": "once"}) == {"id": 7}
    assert {request.body for request in api.requests} == {b'{"key": "once"}'}
    assert len(api.requests) == 3


def test_a_redirect_is_not_followed(api: ScriptedApi, client: Client) -> None:
    api.script(Answer({}, 302, headers={"Location": f"{api.url}/elsewhere"}))
    with pytest.raises(RemoteError) as refused:
        client.get("/health")
    assert refused.value.code == "server.malformed"
    assert len(api.requests) == 1


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[1, 2]", b"", b"\xff\xfe"])
def test_an_answer_that_is_no_object_is_refused(api: ScriptedApi, client: Client, body: bytes) -> None:
    api.script(Answer(raw=body))
    with pytest.raises(CommandError) as refused:
        client.get("/health")
    assert refused.value.code == "server.malformed"


@pytest.mark.parametrize("body", [b"<html>500</html>", b'{"detail": "x"}', b'{"code": 3, "title": "x"}', b"[]"])
def test_an_error_that_is_no_problem_object_is_told_by_its_status(
    api: ScriptedApi, client: Client, body: bytes
) -> None:
    api.script(Answer(raw=body, status=500))
    with pytest.raises(RemoteError) as refused:
        client.get("/health")
    assert (refused.value.code, "500" in refused.value.message) == ("server.malformed", True)


def test_lists_are_read_page_by_page(api: ScriptedApi, client: Client) -> None:
    api.script(Answer({"items": [{"id": 1}, {"id": 2}], "next": "abc"}), Answer({"items": [{"id": 3}], "next": None}))
    assert [item["id"] for item in client.pages("/devices", {"selector": "site=berlin"})] == [1, 2, 3]
    assert api.paths == [
        "/api/v1/devices?selector=site%3Dberlin&limit=1000",
        "/api/v1/devices?selector=site%3Dberlin&limit=1000&cursor=abc",
    ]


def test_a_limit_ends_the_paging(api: ScriptedApi, client: Client) -> None:
    api.script(
        Answer({"items": [{"id": 1}, {"id": 2}], "next": "abc"}), Answer({"items": [{"id": 3}, {"id": 4}], "next": "x"})
    )
    assert [item["id"] for item in client.pages("/rollouts", limit=3)] == [1, 2, 3]
    assert [path.partition("?")[2] for path in api.paths] == ["limit=3", "limit=1&cursor=abc"]


def test_bytes_that_are_not_there_are_none(api: ScriptedApi, client: Client) -> None:
    api.script(problem(404, "metadata.none"), Answer(raw=b"signed"))
    assert client.get_bytes("/metadata/root") is None
    assert client.get_bytes("/metadata/root") == b"signed"


def test_nobody_at_the_address_is_an_error_that_says_so(api: ScriptedApi, time: Time) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"https://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(CommandError) as refused:
        Client(address, api.ca, lambda: TOKEN, pause=time.pause, clock=time.clock).get("/health")
    assert refused.value.code == "server.unreachable"
    assert "beamfleet serve" in refused.value.hint


def test_a_server_that_says_nothing_is_given_up_in_time(api: ScriptedApi) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"https://127.0.0.1:{mute.getsockname()[1]}"
        silent = Client(address, api.ca, lambda: TOKEN, timeout_s=0.2, patience_s=0)
        with pytest.raises(CommandError) as refused:
            silent.get("/health")
    assert refused.value.code in {"server.timeout", "server.unreachable"}


def test_a_missing_certificate_authority_is_named(api: ScriptedApi, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as refused:
        Client(api.url, tmp_path / "gone.pem", lambda: TOKEN).get("/health")
    assert (refused.value.code, "gone.pem" in refused.value.message) == ("server.ca_missing", True)


def test_the_token_is_asked_for_only_when_it_is_needed(api: ScriptedApi) -> None:
    def no_token() -> str:
        raise CommandError("login.missing", "none", "log in")

    client = Client(api.url, api.ca, no_token)
    with pytest.raises(CommandError, match="none"):
        client.upload("/bundles", io.BytesIO(b"x"))
    assert api.requests == []
