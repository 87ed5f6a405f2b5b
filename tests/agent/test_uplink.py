"""The way to the server and back: a real broker, whatever it passes on, and the ways around a broker that is away."""

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent import uplink as module
from beamfleet_agent.journal import Ledger
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import Reports
from beamfleet_agent.settings import load
from beamfleet_agent.telemetry import rhythm
from beamfleet_agent.uplink import Uplink
from beamfleet_bundles import pki

from tests.agent.authority import Authority
from tests.agent.broker import Broker, Listener, free_port
from tests.agent.device import identify, lay_down, words
from tests.agent.enrolment import SmallEnrolment
from tests.support.repository import Repository

Spin = Callable[[str, Callable[[], object]], None]


class Linked:
    """An uplink of an enrolled device, and what it told."""

    def __init__(self, loop: Loop, paths: Paths) -> None:
        settled = load(paths.settings)
        assert settled.server is not None
        self.documents: list[str] = []
        self.ledgers: list[Ledger] = []
        self.ups = self.looks = 0
        self.reports = Reports(Ledger(boot=5), self._send, rhythm("wired"), heard=True)
        self.uplink = Uplink(
            loop, Log(), paths, settled, settled.server, self.reports, 90,
            self.documents.append, lambda: self.ledgers.append(self.reports.ledger), self._up, self._look,
        )  # fmt: skip

    def _send(self, kind: str, payload: bytes, expiry_s: int | None) -> bool:
        return self.uplink.send(kind, payload, expiry_s)

    def _up(self) -> None:
        self.ups += 1

    def _look(self) -> None:
        self.looks += 1


def enrolled(root: Path, authority: Authority, mqtt_port: int, api_port: int = 9) -> Paths:
    """A device that has its certificate already."""
    addresses = {
        "api": f"https://127.0.0.1:{api_port}", "enrol": "https://127.0.0.1:9", "mqtt": f"127.0.0.1:{mqtt_port}",
    }  # fmt: skip
    paths = lay_down(root, words("gw-1", server=addresses, ca_pem=authority.path.read_text()))
    certificate, key = authority.issue("gw-1")
    identify(paths, certificate, key)
    return paths


@pytest.fixture
def linked(loop: Loop, authority: Authority, broker: Broker, tmp_path: Path) -> Iterator[Linked]:
    made = Linked(loop, enrolled(tmp_path / "device", authority, broker.port))
    yield made
    made.uplink.stop()


def test_what_waits_goes_out_with_the_session_and_ends_with_the_ack(
    linked: Linked, listener: Listener, spin: Spin
) -> None:
    linked.reports.event("restart", "crash", starts=3)
    linked.uplink.start()
    spin("the event", lambda: listener.of("event"))
    assert linked.ups == 1
    listener.tell("gw-1", "ack", {"v": 1, "boot": 5, "seq": 1})
    spin("the ack", lambda: linked.ledgers)
    assert linked.ledgers[-1].outbox == ()


def test_without_an_ack_it_is_sent_again(
    linked: Linked, listener: Listener, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESEND_FIRST_S", 0.05)
    linked.reports.event("restart")
    linked.uplink.start()
    spin("it twice", lambda: len(listener.of("event")) >= 2)
    first, second, *_ = listener.of("event")
    assert first == second


def test_nothing_that_comes_down_does_harm(linked: Linked, listener: Listener, spin: Spin) -> None:
    linked.uplink.start()
    spin("its birth", lambda: listener.of("presence"))
    hostile: list[bytes] = [b"", b"\xff\xfe", b"nonsense", b"[]", b"7", b'{"boot": "x"}', b"[" * 400, b"x" * 9000]
    for payload in hostile:
        for kind in ("ack", "command"):
            listener.tell("gw-1", kind, payload)
    for payload in (b"", b"\xff\xfe", b"x" * 9000):
        listener.tell("gw-1", "desired", payload)
    listener.tell("gw-1", "command", {"v": 1, "id": "1", "name": "self-destruct"})
    listener.tell("gw-1", "desired", b"the last one")
    spin("the last one", lambda: linked.documents)
    assert linked.documents == ["the last one"]
    assert linked.uplink.up
    assert linked.ups == 1


def test_asked_to_report_it_sends_again_what_waits(linked: Linked, listener: Listener, spin: Spin) -> None:
    linked.reports.event("restart")
    linked.uplink.start()
    spin("the event", lambda: len(listener.of("event")) == 1)
    listener.tell("gw-1", "command", {"v": 1, "id": "1", "name": "report"})
    spin("it again", lambda: len(listener.of("event")) == 2)


def test_asked_for_evidence_that_it_cannot_hand_in_it_says_so_under_the_id(
    linked: Linked, listener: Listener, spin: Spin
) -> None:
    linked.uplink.start()
    spin("its birth", lambda: listener.of("presence"))
    listener.tell("gw-1", "command", {"v": 1, "id": "c0ffee", "name": "diagnose"})
    spin("the reason", lambda: listener.of("event"))
    (event,) = listener.of("event")
    assert (event["kind"], event["data"]) == ("error", {"command": "c0ffee"})
    assert event["cause"].startswith(("trust.", "worker."))
    assert linked.ledgers, "it is in the journal before it is acknowledged"


def test_the_log_is_sent_to_whoever_asks_and_to_nobody_afterwards(
    loop: Loop, linked: Linked, listener: Listener, spin: Spin, tmp_path: Path
) -> None:
    log = tmp_path / "device/var/run/beamfleet/main/vm.log"
    log.write_text("first\ntoken=hunter2\n")
    linked.uplink.start()
    spin("its birth", lambda: listener.of("presence"))
    listener.tell("gw-1", "command", {"v": 1, "id": "c0ffee", "name": "logs", "lines": 5})
    spin("the end", lambda: [said for said in listener.of("logs") if said["end"]])
    assert [said["lines"] for said in listener.of("logs")] == [["first", "token=[redacted]"], []]
    assert not loop.pending("logs")
    for wrong in ({"lines": "x"}, {"lines": -1, "follow_s": 1e9}, {"lines": True, "follow_s": None}):
        listener.tell("gw-1", "command", {"v": 1, "id": f"w{len(wrong)}", "name": "logs", **wrong})
    listener.tell("gw-1", "desired", b"the last one")
    spin("the last one", lambda: linked.documents)


def test_a_device_that_cannot_enrol_says_why_and_tries_again(
    loop: Loop, authority: Authority, broker: Broker, tmp_path: Path, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENROL_AGAIN_S", 0.1)
    paths = enrolled(tmp_path / "device", authority, broker.port)
    Path(paths.pair).unlink()
    linked = Linked(loop, paths)
    linked.uplink.start()
    spin("a reason", lambda: linked.uplink.problem)
    assert "worker.network" in linked.uplink.problem
    certificate, key = authority.issue("gw-1")  # somebody lays the certificate there by hand
    Path(paths.key).write_bytes(key.read_bytes())
    Path(paths.cert).write_bytes(certificate.read_bytes())
    spin("a session", lambda: linked.uplink.up)
    assert linked.uplink.problem == ""
    linked.uplink.stop()


def test_without_a_broker_it_looks_over_https(
    loop: Loop, authority: Authority, tmp_path: Path, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_POLL_S", 0.05)
    server = Https(authority, b'{"signed": {}}')
    linked = Linked(loop, enrolled(tmp_path / "device", authority, free_port(), server.port))
    linked.uplink.start()
    spin("the assignment", lambda: linked.documents)
    assert linked.documents == ['{"signed": {}}']
    assert server.asked == [("/assignment?app=main", "gw-1")]
    linked.uplink.stop()
    server.close()


def test_once_a_week_it_asks_with_a_nonce_although_all_seems_well(
    loop: Loop, authority: Authority, broker: Broker, tmp_path: Path, spin: Spin
) -> None:
    server = Https(authority, b"")
    paths = enrolled(tmp_path / "device", authority, broker.port, server.port)
    Path(paths.trust_root).write_bytes(Repository().root)
    eight_days_ago = time.time() - 8 * 86_400
    proof = Path(paths.trust) / "clock"
    proof.parent.mkdir(parents=True, exist_ok=True)
    proof.write_text("{}")
    os.utime(proof, (eight_days_ago, eight_days_ago))
    linked = Linked(loop, paths)
    linked.uplink.start()
    spin("a session", lambda: linked.uplink.up)
    assert server.asked == []
    loop.after("uplink.prove", 0, linked.uplink._prove)  # the hour that it leaves itself after a start is over
    spin("the question", lambda: server.asked)
    assert server.asked[0][0].startswith("/assignment?app=main&nonce=")
    spin("the next time", lambda: loop.pending("uplink.prove"))
    linked.uplink.stop()
    server.close()


@pytest.mark.parametrize(("age_s", "due_s"), [(0, 604_800), (86_400, 518_400), (604_800, 3_600), (-9e6, 604_800)])
def test_the_week_is_counted_from_the_last_proof_over_restarts(linked: Linked, age_s: float, due_s: float) -> None:
    proof = Path(linked.uplink._paths.trust) / "clock"
    assert linked.uplink._prove_after_s() == 3_600  # never yet
    proof.parent.mkdir(parents=True, exist_ok=True)
    proof.write_text("{}")
    then = time.time() - age_s
    os.utime(proof, (then, then))
    assert linked.uplink._prove_after_s() == pytest.approx(due_s, abs=60)


class Https:
    """Answers every GET with `content`, to clients of the fleet only."""

    def __init__(self, authority: Authority, content: bytes) -> None:
        import http.server
        import ssl
        import threading

        asked = self.asked = list[tuple[str, str]]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert isinstance(self.connection, ssl.SSLSocket)
                peer: Any = self.connection.getpeercert()
                names = {key: value for part in peer["subject"] for key, value in part}
                asked.append((self.path, names["commonName"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("api"))
        context.load_verify_locations(authority.path)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_the_messages_are_those_of_this_boot(linked: Linked, listener: Listener, spin: Spin) -> None:
    linked.uplink.start()
    spin("its birth", lambda: listener.of("presence"))
    presence = listener.of("presence")[0]
    assert (presence["session"], presence["online"]) == (5_000_001, True)
    assert json.dumps(presence)


class TestRenewal:
    @pytest.fixture
    def front(self, authority: Authority) -> Iterator[SmallEnrolment]:
        made = SmallEnrolment(authority)
        yield made
        made.close()

    @pytest.fixture
    def linked(
        self, loop: Loop, authority: Authority, broker: Broker, front: SmallEnrolment, tmp_path: Path
    ) -> Iterator[Linked]:
        """A device whose certificate is due."""
        paths = enrolled(tmp_path / "device", authority, broker.port)
        toml = Path(paths.settings)
        for port in ("api", "enrol"):
            toml.write_text(toml.read_text().replace(f'{port} = "https://127.0.0.1:9"', f'{port} = "{front.address}"'))
        identify(paths, *authority.issue("gw-1", ends=datetime.now(UTC) + timedelta(hours=2)))
        made = Linked(loop, paths)
        yield made
        made.uplink.stop()

    def test_a_new_certificate_begins_a_new_session_and_is_told(
        self, linked: Linked, listener: Listener, front: SmallEnrolment, spin: Spin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "RENEW_FIRST_S", 0.5)
        linked.uplink.start()
        spin("a second session", lambda: linked.ups == 2)
        assert len(front.issued) == 1
        spin("the event", lambda: listener.of("event"))
        said = listener.of("event")[0]
        assert (said["kind"], said["cause"]) == ("enrolled", "renewed")
        assert [each["reason"] for each in listener.of("presence") if not each["online"]] == ["certificate renewed"]

    def test_a_certificate_that_is_refused_is_looked_after_at_once(
        self, linked: Linked, front: SmallEnrolment, spin: Spin
    ) -> None:
        linked.uplink.start()
        pair, _ = pki.load_pair(Path(linked.uplink._paths.pair))
        front.refused = {f"{pair.serial_number:x}"}
        linked.uplink._poll()
        spin("the renewal", lambda: linked.ups == 2)
        assert len(front.issued) == 1

    def test_what_comes_while_a_worker_is_at_work_waits_and_is_done_once(
        self, linked: Linked, front: SmallEnrolment, spin: Spin
    ) -> None:
        linked.uplink.start()
        linked.uplink._poll()
        for _ in range(3):
            linked.uplink._command("1", "refresh")
        spin("both", lambda: linked.looks == 2)
        asked = [path.partition("?")[0] for path in front.asked]
        assert asked == ["/assignment", "/assignment"]
        assert "nonce=" in front.asked[1]
