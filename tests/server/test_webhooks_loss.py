"""What webhooks do when receivers stay away and the server dies: it is given up visibly, and nothing is lost."""

import threading
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import pytest

from tests.support.hooks import FAST, Hooks
from tests.support.receiver import OK, Receiver, answers, silent
from tests.support.server import eventually, running_server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_what_is_given_up_has_failed_is_listed_and_is_sent_again_when_asked_for(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.behave = answers(500)
    with running_server(tmp_path / "server", webhook_retry_for_s=1, webhook_disable_after_s=600, **FAST) as server:
        hooks = Hooks(server, tmp_path)
        hook = hooks.create(receiver, "enrolled")
        hooks.happen()
        (failed,) = eventually("the end of patience", lambda: hooks.deliveries(hook, "?state=failed"))
        assert failed["tries"] >= 2
        assert hooks.show(hook)["failed"] == 1
        receiver.behave = answers(200)
        assert hooks.ask(hook, "redeliver") == {"redelivered": 1}
        (delivery,) = hooks.delivered(hook)
        assert len({each.id for each in receiver.received}) == 1
        assert hooks.ask(hook, "redeliver", deliveries=[delivery["id"]]) == {"redelivered": 1}
        receiver.wait(failed["tries"] + 2)


def test_a_webhook_that_took_nothing_for_too_long_is_disabled(tmp_path: Path, receiver: Receiver) -> None:
    receiver.behave = answers(500)
    with running_server(tmp_path / "server", webhook_disable_after_s=2, **FAST) as server:
        hooks = Hooks(server, tmp_path)
        hook = hooks.create(receiver, "enrolled")
        hooks.happen()
        (event,) = eventually("the event", lambda: server.get("/events?kind=webhook")["items"])
        assert event["cause"] == "disabled"
        assert hooks.show(hook)["reason"] == "failing for days: it answered 500"
        assert server.api("POST", f"/webhooks/{hook['id']}/redeliver", json={}).json()["code"] == "webhook.disabled"


def test_a_server_that_is_killed_between_sending_and_noting_loses_nothing(tmp_path: Path, receiver: Receiver) -> None:
    """The receiver has the request and has not answered when the server dies; more happens before and after."""
    held = threading.Event()

    def holds(connection: socket) -> None:
        held.set()
        silent(connection, receiver.released)

    receiver.behave = holds
    with running_server(tmp_path / "server", **(FAST | {"webhook_timeout_s": 30})) as server:
        hooks = Hooks(server, tmp_path)
        hook = hooks.create(receiver, "enrolled")
        names = hooks.happen()
        assert held.wait(30)
        names += hooks.happen(3)
        server.kill()
        (first,) = receiver.received
        receiver.behave = lambda connection: connection.sendall(OK)
        server.start()
        names += hooks.happen()
        hooks.delivered(hook, 5)
        received = receiver.wait(6)
    assert [each.json["event"]["device"] for each in received] == [names[0], *names]
    assert received[1].id == first.id, "so that the receiver drops it"
    assert received[1].body == first.body
    assert len({each.id for each in received}) == 5


def test_kills_at_any_moment_lose_nothing(tmp_path: Path, receiver: Receiver) -> None:
    with running_server(tmp_path / "server", **FAST) as server:
        hooks = Hooks(server, tmp_path)
        hook = hooks.create(receiver, "enrolled")
        names: list[str] = []
        for count in (1, 9):
            names += hooks.happen(count)
            server.kill()
            server.start()
        eventually("all of them", lambda: {each.json["event"]["device"] for each in receiver.received} == set(names))
        eventually("the notes", lambda: len(hooks.deliveries(hook, "?state=delivered")) == len(names))
    told = {each.id: each.json["event"]["device"] for each in receiver.received}
    assert sorted(told.values()) == sorted(names)
