"""Owns the way to the server and back: enrolment, the session, sending again, commands, and looking over HTTPS.

    no certificate -> enrol (worker) -> session -> desired, command, ack
    no session for a while -> poll the same assignment over HTTPS (worker), now and then
    once a week, or told to refresh -> ask for it with a nonce (worker): nobody between us and the server answers that
    told to diagnose -> everything that helps to see why, sealed, to the server (worker)
    once a day, or refused -> see whether the certificate is to be renewed (worker); a new one begins a new session

One worker at a time does this; what comes meanwhile waits. Never decides about updates: an assignment is handed on as
it came, unverified.
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from beamfleet_agent import bearings, tls
from beamfleet_agent.child import Child
from beamfleet_agent.course import retry_after
from beamfleet_agent.log import Log
from beamfleet_agent.log_stream import LogStreams
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import RESEND_FIRST_S, Reports
from beamfleet_agent.road import Way
from beamfleet_agent.session import Session
from beamfleet_agent.settings import Server, Settings

MAX_DOCUMENT = 8_192
MAX_MESSAGE = 512
FIRST_POLL_S = 60.0
ENROL_AGAIN_S = 60.0
PROVE_EVERY_S, PROVE_SOON_S = 604_800.0, 3_600.0
RENEW_FIRST_S, RENEW_EVERY_S = 10.0, 86_400.0
LONGEST_WAIT_S = 3_600.0
MOST_WAITING = 8
"""Jobs that wait for the worker: people may ask for evidence more than once."""


Job = dict[str, Any]
OnEnd = Callable[[dict[str, Any]], None]


class Uplink:
    """Brings `reports` to the server. on_document: an assignment came. on_ledger: the ledger must be journalled.

    on_up: the server can be reached again, or wants to hear all of it again. on_look: a worker has ended that may have
    looked at the metadata.
    """

    def __init__(
        self,
        loop: Loop,
        log: Log,
        paths: Paths,
        settings: Settings,
        server: Server,
        reports: Reports,
        keepalive_s: int,
        on_document: Callable[[str], None],
        on_ledger: Callable[[], None],
        on_up: Callable[[], None],
        on_look: Callable[[], None],
    ) -> None:
        self._loop, self._log, self._paths, self._settings = loop, log, paths, settings
        self._reports, self._on_document, self._on_ledger, self._on_up = reports, on_document, on_ledger, on_up
        self._on_look = on_look
        self._child: Child | None = None
        self._waiting: dict[str, tuple[Job, OnEnd, OnEnd]] = {}
        self._tries = self._renewals = 0
        self._used = False
        """Whether the pair in use has been used, in this life of the agent."""
        self._known = ""
        """The tag of the assignment that was polled last, in this life of the agent."""
        self.problem = ""
        """Why the device is not enrolled, if it is not."""
        self._logs = LogStreams(loop, f"{paths.run_app}/vm.log", self.send)
        self._session = Session(
            loop,
            log,
            lambda: bearings.servers(paths, server),
            settings.device,
            settings.app,
            keepalive_s,
            lambda: tls.session_context(paths),
            birth=lambda n: reports.presence(n, True, "connected"),
            will=lambda n: reports.presence(n, False, "connection lost"),
            bye=lambda n, why: reports.presence(n, False, why),
            on_up=self._risen,
            on_down=self._fallen,
            on_message=self._heard,
            way=Way.settled(settings, paths),
            tends_itself=settings.keepalive_s > 0,
        )

    def start(self) -> None:
        """Enrol if that has not been done; then hold the session."""
        if os.path.exists(self._paths.pair):
            self._session.start()
            self._loop.after("uplink.poll", FIRST_POLL_S, self._poll)
            self._loop.after("uplink.prove", self._prove_after_s(), self._prove)
            self._loop.after("uplink.renew", RENEW_FIRST_S, self._renew)
        else:
            self.enrol()

    def stop(self) -> None:
        """Say good-bye."""
        self._logs.stop()
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
        self._work("enrol", {}, self._enrolled, self._not_enrolled)

    def _enrolled(self, result: dict[str, Any]) -> None:
        self._tries, self.problem = 0, ""
        self._log.info("enrolled", serial=result.get("serial"))
        self._reports.event("enrolled", "", f"serial {result.get('serial')}")
        self._on_ledger()
        self.start()

    def _not_enrolled(self, error: dict[str, Any]) -> None:
        self._tries += 1
        hint = str(error.get("hint", ""))
        self.problem = f"{error['message']} ({error['code']})" + (f"; {hint}" if hint else "")
        delay = min(ENROL_AGAIN_S, retry_after(self._tries, self._settings.device))
        if not error.get("patience"):  # somebody has to do something about it
            delay = ENROL_AGAIN_S
        delay = self._asked_for(error) or delay
        self._log.error(
            "enrolment failed", code=error["code"], detail=error["message"], hint=hint, retry_after_s=round(delay, 1)
        )
        self._loop.after("uplink.enrol", delay, self.enrol)

    # --- renewal

    def look_for_renewal(self) -> None:
        """The authorities may be others now."""
        if self._loop.pending("uplink.renew"):
            self._loop.after("uplink.renew", 0.0, self._renew)

    def _renew(self, refused: bool = False) -> None:
        self._loop.after("uplink.renew", RENEW_EVERY_S, self._renew)
        words = {"used": self._used, "refused": refused}
        self._work("renew", words, self._renewed, self._not_renewed)

    def _renewed(self, result: dict[str, Any]) -> None:
        self._renewals = 0
        self._loop.after("uplink.renew", float(result["again_s"]), self._renew)
        if not result["switched"]:
            return
        self._used = False
        self._log.info("certificate switched", serial=result.get("serial"))
        self._reports.event("enrolled", "renewed", f"serial {result.get('serial')}")
        self._on_ledger()
        self._session.stop("certificate renewed")
        self._session.start()

    def _not_renewed(self, error: dict[str, Any]) -> None:
        self._renewals += 1
        delay = self._asked_for(error) or retry_after(self._renewals, self._settings.device)
        self._log.warning("renewal failed", code=error["code"], detail=error["message"], retry_after_s=round(delay, 1))
        self._loop.after("uplink.renew", delay, self._renew)

    def _asked_for(self, error: dict[str, Any]) -> float:
        """The wait that the worker asks for, and up to a quarter more since others wait as well; 0 if there is none."""
        asked_s = error.get("after_s", 0)
        return min(float(asked_s), LONGEST_WAIT_S) * (1 + int.from_bytes(os.urandom(2), "big") / 262_144)

    # --- the session

    def _risen(self) -> None:
        self._used = True
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
        if len(payload) > MAX_MESSAGE:
            self._refuse(kind, payload, "message.too_large")
            return
        try:
            said = json.loads(payload)
        except (ValueError, RecursionError):
            self._refuse(kind, payload, "message.syntax")
            return
        match said:
            case {"boot": int(boot), "seq": int(seq)} if kind == "ack":
                if self._reports.acknowledge(boot, seq):
                    self._on_ledger()
                self.flush()
            case {"id": str(number), "name": "refresh" | "report" | "diagnose" as name} if kind == "command":
                self._command(number[:64], name)
            case {"id": str(number), "name": "logs", **more} if kind == "command":
                self._logs.ask(number[:64], *(_count(more.get(key)) for key in ("lines", "follow_s")))
            case _:
                self._refuse(kind, payload, "message.schema")

    def _refuse(self, kind: str, payload: bytes, code: str) -> None:
        self._log.warning("message not understood", kind=kind, code=code, bytes=len(payload))

    def _desired(self, payload: bytes) -> None:
        if not payload:
            return
        if len(payload) > MAX_DOCUMENT:
            self._refuse("desired", payload, "assignment.too_large")
            return
        try:
            self._on_document(payload.decode())
        except UnicodeDecodeError:
            self._refuse("desired", payload, "assignment.malformed")

    def _command(self, number: str, name: str) -> None:
        self._log.info("command", id=number, name=name)
        if name == "report":
            self._reports.session_began()
            self.flush()
            self._on_up()
        elif name == "refresh":
            self._prove()
        else:
            self._diagnose(number)

    def _diagnose(self, number: str) -> None:
        def failed(error: dict[str, Any]) -> None:
            self._not_diagnosed(number, error)

        if len(self._waiting) < MOST_WAITING:
            self._work(f"diagnose {number}", {"job": "diagnose", "id": number}, self._diagnosed, failed)
        else:
            failed({"code": "worker.busy", "message": "the device has been asked for too much at once"})

    def _diagnosed(self, result: dict[str, Any]) -> None:
        self._log.info("evidence handed over", bytes=result.get("bytes"))

    def _not_diagnosed(self, number: str, error: dict[str, Any]) -> None:
        self._log.warning("evidence not handed over", id=number, code=error["code"], detail=error["message"])
        self._reports.event("error", str(error["code"]), str(error["message"]), command=number)
        self._on_ledger()
        self.flush()

    # --- without a session

    def _poll(self) -> None:
        if not self._session.up:
            self._loop.after("uplink.poll", float(self._settings.poll_interval_s), self._poll)
        if os.path.exists(self._paths.pair):
            self._work("poll", {"known": self._known}, self._polled, self._not_polled)

    def _polled(self, result: dict[str, Any]) -> None:
        self._used = True
        self._known = str(result.get("tag", ""))
        if document := str(result.get("document", "")):
            self._on_document(document)

    def _not_polled(self, error: dict[str, Any]) -> None:
        self._log.warning("poll failed", code=error["code"], detail=error["message"])
        if str(error["code"]).startswith("certificate."):
            self._renew(refused=True)

    # --- proof that nobody keeps the newest assignment from us

    def _prove(self) -> None:
        self._loop.after("uplink.prove", PROVE_SOON_S, self._prove)  # sooner than in a week, unless it succeeds
        self._work("prove", {"job": "poll", "prove": True}, self._proven, self._not_polled)

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

    def _work(self, name: str, words: Job, on_result: OnEnd, on_error: OnEnd) -> None:
        """Have this done, now or when the worker is free; once, however often it was asked for meanwhile."""
        if self._child is not None:
            self._waiting[name] = (words, on_result, on_error)
            return
        said: dict[str, Any] = {}

        def ended(code: int) -> None:
            self._child = None
            self._on_look()
            if "result" in said:
                on_result(said["result"])
            else:
                killed = {"code": "worker.killed", "message": f"the worker ended with {code}", "patience": 1}
                on_error(said.get("error", killed))
            if self._waiting and self._child is None:
                first = next(iter(self._waiting))
                self._work(first, *self._waiting.pop(first))

        try:
            job = {"job": name, **words, "root": self._paths.root}
            self._child = Child(self._loop, job, said.update, ended)
        except OSError as error:
            on_error({"code": "worker.spawn", "message": str(error), "patience": 1})

    def _dismiss(self) -> None:
        self._waiting.clear()
        if self._child is not None:
            self._child.kill()
            self._child = None


def _count(said: Any) -> int:
    return said if type(said) is int and said > 0 else 0
