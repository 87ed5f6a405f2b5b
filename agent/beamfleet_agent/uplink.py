"""Owns the way to the server and back: enrolment, the session, sending again, commands, and looking over HTTPS.

    no certificate -> enrol (worker) -> session -> desired, command, ack
    no session for a while -> poll the same assignment over HTTPS (worker), now and then
    once a week -> ask for it with a nonce (worker): whoever sits between us and the server cannot answer that

Never decides about updates: an assignment is handed on as it came, unverified.
"""

import json
import os
import ssl
import time
from collections.abc import Callable
from typing import Any

from beamfleet_agent.child import Child
from beamfleet_agent.course import retry_after
from beamfleet_agent.log import Log
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import RESEND_FIRST_S, Reports
from beamfleet_agent.session import Session
from beamfleet_agent.settings import Server, Settings

MAX_DOCUMENT = 8_192
FIRST_POLL_S = 60.0
ENROL_AGAIN_S = 60.0
KEEPALIVE_MARGIN_S = 30
PROVE_EVERY_S, PROVE_SOON_S = 604_800.0, 3_600.0


class Uplink:
    """Brings `reports` to the server. on_document: an assignment came. on_ledger: the ledger must be journalled.

    on_up: the server can be reached again.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        paths: Paths,
        settings: Settings,
        server: Server,
        reports: Reports,
        on_document: Callable[[str], None],
        on_ledger: Callable[[], None],
        on_up: Callable[[], None],
    ) -> None:
        self._loop, self._log, self._paths, self._settings = loop, log, paths, settings
        self._reports, self._on_document, self._on_ledger, self._on_up = reports, on_document, on_ledger, on_up
        self._child: Child | None = None
        self._tries = 0
        self._known = ""
        """The tag of the assignment that was polled last, in this life of the agent."""
        self.problem = ""
        """Why the device is not enrolled, if it is not."""
        self._session = Session(
            loop,
            log,
            server,
            settings.device,
            settings.app,
            settings.health_interval_s + KEEPALIVE_MARGIN_S,
            self._tls,
            birth=lambda n: reports.presence(n, True, "connected"),
            will=lambda n: reports.presence(n, False, "connection lost"),
            bye=lambda n: reports.presence(n, False, "agent stopped"),
            on_up=self._risen,
            on_down=self._fallen,
            on_message=self._heard,
        )

    def start(self) -> None:
        """Enrol if that has not been done; then hold the session."""
        if os.path.exists(self._paths.cert):
            self._session.start()
            self._loop.after("uplink.poll", FIRST_POLL_S, self._poll)
            self._loop.after("uplink.prove", self._prove_after_s(), self._prove)
        else:
            self.enrol()

    def stop(self) -> None:
        """Say good-bye."""
        self._session.stop()
        self._dismiss()

    @property
    def up(self) -> bool:
        """Whether there is a session."""
        return self._session.up

    def send(self, kind: str, payload: bytes, expiry_s: int | None) -> bool:
        """One message; False without a session."""
        return self._session.publish(kind, payload, expiry_s)

    def flush(self) -> None:
        """Send what is new; it is sent again, ever more rarely, until it is acknowledged."""
        if self._session.up:
            self._reports.flush()
            if self._reports.waiting and not self._loop.pending("uplink.resend"):
                self._loop.after("uplink.resend", RESEND_FIRST_S, self._resend)

    def tend(self) -> None:
        """To be called now and then."""
        self._session.tend()

    # --- enrolment

    def enrol(self) -> None:
        """Ask for a certificate now."""
        self._loop.cancel("uplink.enrol")
        self._work({"job": "enrol"}, self._enrolled, self._not_enrolled)

    def _enrolled(self, result: dict[str, Any]) -> None:
        self._tries, self.problem = 0, ""
        self._log.info("enrolled", serial=result.get("serial"))
        self._reports.event("enrolled", detail=f"serial {result.get('serial')}")
        self._on_ledger()
        self.start()

    def _not_enrolled(self, error: dict[str, Any]) -> None:
        self._tries += 1
        hint = str(error.get("hint", ""))
        self.problem = f"{error['message']} ({error['code']})" + (f"; {hint}" if hint else "")
        delay = min(ENROL_AGAIN_S, retry_after(self._tries, self._settings.device))
        if not error.get("patience"):  # somebody has to do something about it
            delay = ENROL_AGAIN_S
        self._log.error(
            "enrolment failed", code=error["code"], detail=error["message"], hint=hint, retry_after_s=round(delay, 1)
        )
        self._loop.after("uplink.enrol", delay, self.enrol)

    # --- the session

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(self._paths.ca)
        context.load_cert_chain(self._paths.cert, self._paths.key)
        return context

    def _risen(self) -> None:
        self._loop.cancel("uplink.poll")
        self._loop.cancel("uplink.resend")
        self._reports.session_began()
        self.flush()
        self._on_up()

    def _fallen(self) -> None:
        self._loop.cancel("uplink.resend")
        self._loop.after("uplink.poll", FIRST_POLL_S, self._poll)

    def _resend(self) -> None:
        if self._reports.waiting and self._session.up:
            self._loop.after("uplink.resend", self._reports.forget_sent(), self._resend)
            self._reports.flush()

    def _heard(self, kind: str, payload: bytes) -> None:
        if kind == "desired":
            self._desired(payload)
            return
        try:
            said = json.loads(payload) if len(payload) <= 512 else {}
            if kind == "ack":
                if self._reports.acknowledge(int(said["boot"]), int(said["seq"])):
                    self._on_ledger()
                self.flush()
            else:
                self._command(str(said["id"]), str(said["name"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            self._log.warning("message not understood", kind=kind, bytes=len(payload))

    def _desired(self, payload: bytes) -> None:
        if not payload:
            return
        try:
            if len(payload) > MAX_DOCUMENT:
                raise ValueError(len(payload))
            self._on_document(payload.decode())
        except ValueError:
            self._log.warning("message not understood", kind="desired", bytes=len(payload))

    def _command(self, number: str, name: str) -> None:
        self._log.info("command", id=number[:64], name=name[:64])
        if name == "report":
            self._reports.session_began()
            self.flush()
        elif name == "refresh":
            self._poll()

    # --- without a session

    def _poll(self) -> None:
        if not self._session.up:
            self._loop.after("uplink.poll", float(self._settings.poll_interval_s), self._poll)
        if os.path.exists(self._paths.cert):
            self._work({"job": "poll", "known": self._known}, self._polled, self._not_polled)

    def _polled(self, result: dict[str, Any]) -> None:
        self._known = str(result.get("tag", ""))
        if document := str(result.get("document", "")):
            self._on_document(document)

    def _not_polled(self, error: dict[str, Any]) -> None:
        self._log.warning("poll failed", code=error["code"], detail=error["message"])

    # --- proof that nobody keeps the newest assignment from us

    def _prove(self) -> None:
        self._loop.after("uplink.prove", PROVE_SOON_S, self._prove)  # sooner than in a week, unless it succeeds
        self._work({"job": "poll", "prove": True}, self._proven, self._not_polled)

    def _proven(self, result: dict[str, Any]) -> None:
        self._loop.after("uplink.prove", PROVE_EVERY_S, self._prove)
        self._polled(result)

    def _prove_after_s(self) -> float:
        try:
            age = time.time() - os.stat(f"{self._paths.trust}/clock").st_mtime
        except OSError:
            return PROVE_SOON_S
        return min(max(PROVE_EVERY_S - age, PROVE_SOON_S), PROVE_EVERY_S)

    # --- the worker that does this

    def _work(
        self,
        job: dict[str, Any],
        on_result: Callable[[dict[str, Any]], None],
        on_error: Callable[[dict[str, Any]], None],
    ) -> None:
        if self._child is not None:
            return
        said: dict[str, Any] = {}

        def ended(code: int) -> None:
            self._child = None
            if "result" in said:
                on_result(said["result"])
            else:
                killed = {"code": "worker.killed", "message": f"the worker ended with {code}", "patience": 1}
                on_error(said.get("error", killed))

        try:
            self._child = Child(self._loop, {**job, "root": self._paths.root}, said.update, ended)
        except OSError as error:
            on_error({"code": "worker.spawn", "message": str(error), "patience": 1})

    def _dismiss(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None
