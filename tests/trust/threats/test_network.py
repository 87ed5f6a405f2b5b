"""Whoever is on the network without a key, even one whom TLS does not stop: nothing runs that was not signed, nothing
older, nothing endless; and whoever only keeps things back is noticed.

The device has been told to run 1.1.0, and would, if a single answer on the way were not spoiled."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.certificates import self_signed
from tests.support.fleet import Fleet, wait_for
from tests.support.interception import Answer, Exchange, FalseBroker, Interceptor, always, redirect, restart_agent
from tests.support.thief import Thief, version_of
from tests.trust.threats.captive import PRODUCT, Captive, built, captured, committed, logged, running_device

pytestmark = pytest.mark.suite(name="trust")


@pytest.fixture(scope="module")
def captive(here: Fleet, work: Path) -> Iterator[Captive]:
    with captured(here, running_device(here, "captive"), work / "captive") as made:
        yield made


@pytest.fixture(scope="module")
def offer(here: Fleet, work: Path) -> Callable[[], bytes]:
    """An assignment of 1.1.0 as the server itself would sign it, each time in an attempt of its own."""
    server, attempts = Thief(here.data, work / "offers"), itertools.count(1)
    release = server.release(PRODUCT, "1.1.0")
    return lambda: server.assign("captive", release, attempt=next(attempts))


@pytest.fixture(autouse=True)
def honest_again(captive: Captive) -> Iterator[None]:
    yield
    captive.front.answers.clear()


def altered(exchange: Exchange) -> bytes:
    """One bit in the middle is another."""
    content = bytearray(exchange.content)
    content[len(content) // 2] ^= 1
    return bytes(content)


def endless(exchange: Exchange) -> Iterator[bytes]:
    """The true answer, and zeros for as long as somebody reads."""
    yield exchange.content
    while True:
        yield bytes(1 << 16)


def cut_short(exchange: Exchange) -> Iterator[bytes]:
    yield exchange.content[: len(exchange.content) // 2]


LIES: dict[str, tuple[str, Answer, str]] = {
    "another timestamp": ("/metadata/timestamp.json", altered, "trust.signature trust.malformed"),
    "no timestamp": ("/metadata/timestamp.json", always(404), "trust.unavailable"),
    "a timestamp that is none": ("/metadata/timestamp.json", always(b"<html>"), "trust.malformed"),
    "an endless timestamp": ("/metadata/timestamp.json", endless, "trust.too_large"),
    "a redirect": ("/metadata/timestamp.json", always(302), "worker.refused"),
    "a server that fails": ("/metadata/timestamp.json", always(503), "worker.server"),
    "another manifest": ("/targets/*", altered, "trust.mismatch"),
    "an endless manifest": ("/targets/*", endless, "worker.too_large"),
    "an empty manifest": ("/targets/*", always(b""), "trust.mismatch"),
    "no manifest": ("/targets/*", always(404), "worker.not_found"),
    "another pack": ("/packs/*", altered, "slot.altered pack.frame"),
    "an endless pack": ("/packs/*", endless, "pack.trailing"),
    "half a pack": ("/packs/*", cut_short, "pack.truncated"),
    "a pack that is none": ("/packs/*", always(bytes(5000)), "pack.frame"),
    "no pack": ("/packs/*", always(404), "worker.not_found"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_spoiled_answer_is_refused_and_what_runs_goes_on(
    captive: Captive, offer: Callable[[], bytes], lie: str
) -> None:
    path, answer, codes = LIES[lie]
    captive.front.answers[path] = answer
    captive.refuses(codes, lambda: captive.push(offer()))


def listed(captive: Captive) -> list[str]:
    """The newest snapshot, targets and product that the device has seen, by path."""
    trust = captive.device.root / "var/lib/beamfleet/trust"
    roles = ("snapshot", "targets", PRODUCT)
    return [f"/metadata/{version_of((trust / f'{role}.json').read_bytes())}.{role}.json" for role in roles]


@pytest.fixture(scope="module")
def old(here: Fleet, captive: Captive, offer: Callable[[], bytes]) -> dict[str, bytes]:
    """What the server said before its newest release; the device has seen what it says now."""
    for path in ("/metadata/timestamp.json", *listed(captive)):
        captive.front.fetch(path)
    before = dict(captive.front.heard)
    here.cli("bundle", "publish", built(here, "1.0.1"))
    catch_up(captive, offer)
    assert captive.front.heard["/metadata/timestamp.json"] != before["/metadata/timestamp.json"]
    return before


def catch_up(captive: Captive, offer: Callable[[], bytes]) -> None:
    """Let the device see what the server says now, and install nothing."""
    captive.front.answers = {"/targets/*": always(404)}
    captive.refuses("worker.not_found", lambda: captive.push(offer()))
    captive.front.answers.clear()


@pytest.mark.parametrize("cache", ["whole", "timestamp.json was emptied by a power cut", "lost"])
def test_what_the_server_said_before_is_refused(
    captive: Captive, offer: Callable[[], bytes], old: dict[str, bytes], cache: str
) -> None:
    """Of the device's own copies only the marks beside them are always there."""
    catch_up(captive, offer)
    trust = captive.device.root / "var/lib/beamfleet/trust"
    if cache == "lost":
        for path in trust.glob("*.json"):
            path.unlink()
    elif cache != "whole":
        (trust / "timestamp.json").write_bytes(b"")
    captive.front.answers |= {path: always(content) for path, content in old.items()}
    captive.refuses("trust.rollback", lambda: captive.push(offer()))


@pytest.mark.parametrize("role", ["snapshot", PRODUCT])
def test_an_older_document_does_not_pass_for_the_newest(
    captive: Captive, offer: Callable[[], bytes], old: dict[str, bytes], role: str
) -> None:
    catch_up(captive, offer)
    trust = captive.device.root / "var/lib/beamfleet/trust"
    (newest,) = (path for path in listed(captive) if path.endswith(f".{role}.json"))
    (older,) = (content for path, content in old.items() if path.endswith(f".{role}.json"))
    (trust / f"{role}.json").unlink()  # it has to ask for it again
    if role == "snapshot":
        (trust / "high-water").unlink()
    captive.front.answers[newest] = always(older)
    captive.refuses("trust.mismatch", lambda: captive.push(offer()))


def test_an_assignment_that_was_followed_by_another_is_refused_also_by_an_agent_that_starts_anew(
    captive: Captive, offer: Callable[[], bytes]
) -> None:
    first, second = offer(), offer()
    captive.front.answers["/targets/*"] = always(404)
    captive.refuses("worker.not_found", lambda: captive.push(second))
    captive.refuses("assignment.replayed", lambda: captive.push(first))
    restart_agent(captive.device)
    captive.refuses("assignment.replayed", lambda: captive.push(first + b" "))


def test_a_server_of_another_fleet_hears_nothing(captive: Captive, offer: Callable[[], bytes], tmp_path: Path) -> None:
    pair = self_signed(tmp_path)
    front, broker = Interceptor(pair, pair[0]), FalseBroker(tmp_path, pair, pair[0])
    try:
        redirect(captive.device, api=front.address)
        captive.refuses("worker.network", lambda: captive.push(offer()))
        assert front.asked == []
        redirect(captive.device, api=captive.front.address, mqtt=broker.address)
        down = logged(captive.device, "session down")
        wait_for("the session to fail", lambda: len(logged(captive.device, "session down")) > len(down), deadline_s=30)
        assert "certificate verify failed" in logged(captive.device, "session down")[-1]["detail"]
        assert broker.heard == []
    finally:
        redirect(captive.device, api=captive.front.address, mqtt=captive.broker.address)
        front.close()
        broker.close()


def test_the_true_answer_is_taken_in_the_end(captive: Captive, offer: Callable[[], bytes]) -> None:
    """All of that was refused for what was wrong with it, and none of it is in the way of what is right."""
    captive.push(offer())
    committed(captive.device, "1.1.0")
