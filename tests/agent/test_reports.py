"""Reports: in the shapes that the server takes, numbered, kept until acknowledged, clean whatever they are made of."""

import json
from pathlib import Path
from typing import Any

import pytest
from beamfleet_agent.boot import parse
from beamfleet_agent.inventory import Inventory
from beamfleet_agent.journal import Ledger
from beamfleet_agent.reports import OUTBOX, RESEND_CAP_S, UNCHECKED, WITH_EVIDENCE, Reports, clean, word
from beamfleet_agent.telemetry import rhythm
from beamfleet_agent.update_state import PHASES, Release, State, Update
from beamfleet_bundles import messages
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins

RELEASE = Release("a" * 64, "gateway", "1.1.0", ("kernel",))
INVENTORY = Inventory(
    "0.1.0",
    "x86_64",
    "glibc",
    "2.36",
    "",
    "",
    "6.1",
    "Debian",
    "3.11.2",
    "ext4",
    False,
    1 << 30,
    2,
    1 << 30,
    "Europe/Berlin",
    "wifi",
)
BOOT = parse(
    b"format=1\nslot=" + b"a" * 32 + b"\nprevious=\nphase=committed\nattempt=1\nboots=0\npower_losses=2\nstarts=5\n"
    b"stopped=no\ncause=crash\ndetail=status 1\nfailed="
    + b"b" * 32
    + b":1:crash\nlast_request=3\nresult=ok\nboot_id=x\n"
)
VERSIONS = {"root": 1, "timestamp": 5, "snapshot": 5, "targets": 2, "products": {"gateway": 3}}
LEDGER = Ledger(boot=7)
EVIDENCE = {"slogan": "no more memory", "status": "ended with 1", "log": ("one", "two")}


class Wire:
    """Where reports go: a session that may be down."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[tuple[str, bytes]] = []

    def __call__(self, kind: str, payload: bytes, _expiry_s: int | None) -> bool:
        if self.up:
            self.sent.append((kind, payload))
        return self.up

    def take(self) -> list[Any]:
        """What went out since the last time, as the server decodes it."""
        sent, self.sent = self.sent, []
        return [messages.decode(kind, payload) for kind, payload in sent]


def made(ledger: Ledger = LEDGER, heard: bool = True) -> tuple[Reports, Wire]:
    wire = Wire()
    return Reports(ledger, wire, rhythm("metered"), heard=heard), wire


def test_every_message_is_one_that_the_server_takes() -> None:
    reports, wire = made()
    reports.state(BOOT, State(Update("trial", "a" * 32, "a" * 64, "gateway", "1.1.0", 2), sequence=9), INVENTORY)
    reports.event("restart", "crash", "status 1", "a" * 32, EVIDENCE, starts=5)
    reports.flush()
    reports.health({"time": 1, "verdict": "unknown", "starts": 0, "beam": None}, 120)
    reports.progress(Update("downloading", manifest="a" * 64), 10, 100)
    event, state, health, progress = wire.take()
    assert (state.slot, state.phase, state.power_losses, state.update.phase, state.sequence) == (
        "a" * 32, "committed", 2, "trial", 9,
    )  # fmt: skip
    assert (event.cause, event.data) == ("crash", {"starts": 5})
    assert to_builtins(event.evidence) == EVIDENCE
    assert (health.verdict, health.beam) == ("unknown", None)
    assert (progress.done, progress.total) == (10, 100)
    for online in (True, False):
        presence = messages.decode("presence", reports.presence(3, online, "connected"))
        assert isinstance(presence, messages.Presence)
        assert (presence.session, presence.online) == (7_000_003, online)
        assert (presence.profile, presence.keepalive_s, presence.interval_s) == ("metered", 930, 900)
        assert presence.machine == Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def test_a_state_has_the_versions_of_the_metadata_and_is_a_new_one_when_they_change() -> None:
    reports, wire = made()
    for versions in (None, None, VERSIONS, VERSIONS):
        reports.state(BOOT, State(), INVENTORY, versions)
        reports.flush()
    unchecked, checked = wire.take()
    assert to_builtins(unchecked.metadata) == UNCHECKED
    assert to_builtins(checked.metadata) == VERSIONS


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_is_one_that_the_server_knows(phase: str) -> None:
    reports, wire = made()
    reports.state(BOOT, State(Update(phase), releases=(RELEASE,)), INVENTORY)
    reports.flush()
    (state,) = wire.take()
    assert (state.update.phase, state.product, state.version, state.manifest) == (phase, "gateway", "1.1.0", "a" * 64)


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_whatever_text_a_report_is_made_of_the_server_takes_it(first: str, second: str) -> None:
    reports, wire = made()
    hostile = parse(b"")
    hostile.cause, hostile.failed, hostile.phase = first, second, "committed"
    inventory = INVENTORY._replace(os=first, machine=second)
    reports.state(hostile, State(Update("failed", reason=first, detail=second)), inventory)
    reports.event("error", first, second, words=first)
    reports.flush()
    assert len(wire.take()) == 2
    messages.decode("presence", reports.presence(1, True, first))


def test_cleaning_keeps_what_can_be_read() -> None:
    assert clean("größer als\tdas\nMaß", 100) == "größer als das Maß"
    assert clean("x" * 300, 256) == "x" * 256
    assert "\u202e" not in clean("turned \u202earound", 100)
    assert word("slot.no_space") == "slot.no_space"
    assert word("an evil\nword") == "an_evil_word"


def test_what_is_not_acknowledged_goes_out_again_and_then_no_more() -> None:
    reports, wire = made()
    reports.event("restart")
    reports.event("update")
    reports.state(BOOT, State(), INVENTORY)
    reports.flush()
    first = wire.take()
    reports.flush()
    assert wire.take() == []
    reports.forget_sent()
    reports.flush()
    assert wire.take() == first
    assert reports.acknowledge(7, 2)
    assert (reports.ledger.outbox, reports.waiting) == ((), True)
    assert not reports.acknowledge(7, 3)
    assert (reports.ledger.outbox, reports.waiting) == ((), False)
    reports.forget_sent()
    reports.flush()
    assert wire.take() == []


def test_a_new_session_gets_what_waits_and_the_state_in_any_case() -> None:
    reports, wire = made()
    reports.state(BOOT, State(), INVENTORY)
    reports.flush()
    reports.acknowledge(7, 1)
    wire.take()
    reports.session_began()
    reports.flush()
    assert [type(message) for message in wire.take()] == [messages.State]


def test_nothing_is_lost_while_there_is_no_session() -> None:
    reports, wire = made()
    wire.up = False
    reports.event("restart")
    reports.flush()
    wire.up = True
    reports.flush()
    assert len(wire.take()) == 1


def test_the_same_state_is_not_reported_twice_and_a_new_one_replaces_it() -> None:
    reports, wire = made()
    for _ in range(3):
        reports.state(BOOT, State(), INVENTORY)
    reports.state(BOOT, State(sequence=4), INVENTORY)
    reports.flush()
    (state,) = wire.take()
    assert (state.sequence, state.seq) == (4, 2)


def test_the_outbox_is_bounded_and_counts_what_it_dropped() -> None:
    reports, _ = made()
    for number in range(OUTBOX + 5):
        reports.event("restart", starts=number)
    assert len(reports.ledger.outbox) == OUTBOX
    assert reports.ledger.dropped == 5
    assert reports.ledger.outbox[0]["data"] == {"starts": 5}


def test_only_the_newest_events_keep_their_evidence() -> None:
    """The journal is written anew with each of them, to flash."""
    reports, _ = made()
    for number in range(WITH_EVIDENCE + 5):
        reports.event("restart", "crash", "", "", EVIDENCE if number % 2 else None, starts=number)
        reports.event("restart", "crash", "", "", EVIDENCE, starts=number)
    kept = ["evidence" in entry for entry in reports.ledger.outbox]
    assert (sum(kept), len(kept)) == (WITH_EVIDENCE, 2 * (WITH_EVIDENCE + 5))
    assert kept.index(True) > WITH_EVIDENCE
    assert reports.ledger.outbox[-1]["evidence"] == EVIDENCE


def test_events_of_an_earlier_boot_keep_their_numbers() -> None:
    earlier, _ = made()
    earlier.event("restart")
    reports, wire = made(earlier.ledger._replace(boot=8))
    reports.event("update")
    reports.flush()
    assert [(event.boot, event.seq) for event in wire.take()] == [(7, 1), (8, 1)]


def test_a_server_that_knows_a_later_boot_is_believed() -> None:
    """The journal was lost: what we say would count as old news."""
    reports, wire = made(Ledger(boot=1))
    reports.event("restart")
    reports.state(BOOT, State(), INVENTORY)
    reports.flush()
    wire.take()
    assert reports.acknowledge(12, 40)
    reports.flush()
    sent = wire.take()
    assert [message.boot for message in sent] == [13, 13]
    assert len({message.seq for message in sent}) == 2
    assert reports.ledger.boot == 13


def test_pauses_between_repetitions_grow_and_start_anew_with_a_session() -> None:
    reports, _ = made()
    pauses = [reports.forget_sent() for _ in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == RESEND_CAP_S
    reports.session_began()
    assert reports.forget_sent() == pauses[0]


def test_without_a_server_nothing_is_kept_for_it() -> None:
    reports, _ = made(heard=False)
    reports.event("restart")
    assert reports.ledger.outbox == ()


def test_messages_are_compact_json() -> None:
    reports, wire = made()
    reports.event("restart", "", "größer")
    reports.flush()
    payload = wire.sent[0][1]
    assert b" " not in payload
    assert json.loads(payload)["detail"] == "größer"
