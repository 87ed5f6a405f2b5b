"""Pings cost bytes and wake-ups: a session sends them only when nothing else tells that both sides are there."""

import getpass
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.session import Session
from beamfleet_agent.settings import RANGES, Server
from beamfleet_agent.telemetry import rhythm

from tests.support.certificates import self_signed
from tests.support.fleet import free_port, wait_for

KEEPALIVE_S, TICK_S, LIMIT_S = 2, 0.2, 60.0
"""With a keepalive of one second the broker, who counts whole ones, may miss a ping that is 0.2 s late."""


class Broker:
    """A mosquitto that logs every packet, and the context with which a device connects."""

    def __init__(self, work: Path) -> None:
        certificate, key = self_signed(work)
        self.port, self._log = free_port(), work / "log"
        self.context = ssl.create_default_context(cafile=str(certificate))
        self.context.load_cert_chain(certificate, key)
        configuration = work / "mosquitto.conf"
        lines = (f"user {getpass.getuser()}", f"listener {self.port} 127.0.0.1", "allow_anonymous true",
                 "log_type all", "log_dest stderr",
                 f"cafile {certificate}", f"certfile {certificate}", f"keyfile {key}")  # fmt: skip
        configuration.write_text("\n".join(lines) + "\n")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(["mosquitto", "-c", configuration], stderr=log)

    def await_listening(self) -> None:
        """Return when it can be connected to."""
        wait_for("mosquitto to listen", self._listens, deadline_s=LIMIT_S)

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(10)

    def count(self, packet: str) -> int:
        """How many packets of this kind it has received."""
        return self._log.read_text().count(f"Received {packet} from ")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path)
    try:
        running.await_listening()
        yield running
    finally:
        running.end()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def open_session(loop: Loop, broker: Broker) -> Session:
    """A session that is up."""
    session = Session(
        loop, Log(), lambda: [Server("", "", "127.0.0.1", broker.port)], "gw-1", "main", KEEPALIVE_S,
        lambda: broker.context,
        birth=lambda _: b"{}", will=lambda _: b"{}", bye=lambda _, __: b"{}",
        on_up=loop.stop, on_down=loop.stop, on_message=lambda *_: None,
    )  # fmt: skip
    session.start()
    loop.after("limit", LIMIT_S, loop.stop)
    loop.run()
    assert session.up
    return session


def test_a_session_that_is_spoken_in_and_answered_needs_no_ping(loop: Loop, broker: Broker) -> None:
    session, said = open_session(loop, broker), 0

    def speak() -> None:
        nonlocal said
        said += session.publish("health", b"{}")
        session.tend()
        loop.after("speak", TICK_S, loop.stop if said * TICK_S > 3 * KEEPALIVE_S else speak)

    speak()
    loop.run()
    assert session.up
    session.stop()
    wait_for("the good-bye", lambda: broker.count("DISCONNECT"), deadline_s=LIMIT_S)
    assert broker.count("PUBLISH") > said
    assert broker.count("PINGREQ") == 0


def test_a_session_in_which_nothing_is_said_pings_and_stays(loop: Loop, broker: Broker) -> None:
    session = open_session(loop, broker)

    def tend() -> None:
        session.tend()
        loop.after("tend", TICK_S, loop.stop if broker.count("PINGREQ") >= 3 else tend)

    tend()
    loop.run()
    assert session.up
    assert broker.count("PINGREQ") == 3
    session.stop()


def test_a_session_whose_broker_hangs_is_given_up_although_it_goes_on_speaking(loop: Loop, broker: Broker) -> None:
    session = open_session(loop, broker)
    broker.process.send_signal(signal.SIGSTOP)

    def speak() -> None:
        session.publish("health", b"{}")
        session.tend()
        loop.after("speak", TICK_S, speak)

    speak()
    loop.run()
    up = session.up
    broker.process.send_signal(signal.SIGCONT)
    assert not up
    session.stop()


def test_the_longest_health_interval_is_a_keepalive_that_mqtt_can_say() -> None:
    assert rhythm("metered", RANGES["health_interval_s"][1]).keepalive_s < 1 << 16
