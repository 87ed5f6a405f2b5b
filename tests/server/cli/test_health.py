"""`health`, `top` and the health in `device`: what they show of the server's answers, and that it is harmless."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from beamfleet_server.cli import top, vitals
from beamfleet_server.cli.contexts import Contexts
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.output import Output

from tests.server.cli.api_script import TOKEN, Answer, ScriptedApi
from tests.server.cli.terminal import COMMAND, Operator, Screen, clean_environment

Capture = pytest.CaptureFixture[str]
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07[red]\u202egpj.exe"
SERVER = {
    "status": "ok", "broker": "up", "devices": 4, "online": 3, "refused_messages": {}, "alarms": [],
    "expiries": {"due": 0, "expired": 0},
}  # fmt: skip
COUNTS = {"healthy": 2, "degraded": 1, "failing": 1, "offline": 0, "unknown": 0}
BEAM = {
    "memory": 91_000_000, "processes": 120, "run_queue": 0, "schedulers": 31, "queue": 104_233, "queue_name": "logger",
    "atoms_permille": 902, "restarts": 3, "uptime_ms": 7_500_000,
}  # fmt: skip
HOST = {"load": 150, "memory_permille": 640, "disk_permille": 120, "temperature": 45_300}


def device(name: str = "gw-1", verdict: str = "failing", **more: Any) -> dict[str, Any]:
    """A device as `GET /health/devices` has it."""
    reasons = [{"check": "queue", "level": verdict, "detail": "104233 messages wait for logger"}]
    return {
        "id": name, "labels": {}, "verdict": verdict, "reasons": [] if verdict == "healthy" else reasons,
        "time": "2026-11-23T11:59:15Z", "online": True, "last_seen": "2026-11-23T11:59:15Z",
        "product": "sensor-gateway", "version": "1.1.0", "profile": "wired", "starts": 2,
        "beam": BEAM, "host": HOST, **more,
    }  # fmt: skip


def page(*devices: dict[str, Any], **more: Any) -> Answer:
    """A page of `GET /health/devices`."""
    return Answer({"items": list(devices), "next": None, "counts": COUNTS, **more})


@pytest.fixture
def scripted(operator: Operator, api: ScriptedApi) -> Operator:
    """An operator whose server is the script."""
    Contexts(operator.directory).save("berlin", api.url, TOKEN, api.ca.read_bytes())
    return operator


def test_health_tells_of_the_server_then_counts_then_who_is_unwell_and_why(
    scripted: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    api.script(Answer(SERVER), page(device(), device("gw-2", "degraded")))
    shown = scripted.run("health", "-l", "site=berlin", capsys=capsys)
    assert shown.code == 0
    told = shown.out.splitlines()
    assert told[0].startswith("server:")
    assert "1 failing, 1 degraded, 2 healthy" in shown.out
    assert [line.split()[:2] for line in told[-2:]] == [["gw-1", "failing"], ["gw-2", "degraded"]]
    assert "queue: 104233 messages wait for logger" in shown.out
    assert "selector=site%3Dberlin" in api.paths[1]
    assert "verdict=failing%2Cdegraded%2Cunknown%2Coffline" in api.paths[1]


def test_health_for_scripts_keeps_what_it_had_and_adds_counts_and_devices(
    scripted: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    api.script(Answer(SERVER), page(device()))
    shown = scripted.run("health", "-o", "json", capsys=capsys).json
    assert {**SERVER, "server": api.url} == {key: shown[key] for key in [*SERVER, "server"]}
    assert (shown["counts"], [each["id"] for each in shown["unwell"]]) == (COUNTS, ["gw-1"])


@pytest.mark.parametrize(("failing", "code"), [(0, 0), (1, 1)])
def test_a_check_exits_1_exactly_when_a_device_is_failing(
    failing: int, code: int, scripted: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    counts = {**COUNTS, "failing": failing}
    for words in ((), ("--check",)):
        api.script(Answer(SERVER), page(device("gw-2", "degraded"), counts=counts))
        assert scripted.run("health", *words, capsys=capsys).code == (code if words else 0)


def test_a_long_list_of_unwell_devices_is_cut_and_says_so(
    scripted: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    counts = {**COUNTS, "offline": 9000, "failing": 3, "degraded": 0}
    api.script(Answer(SERVER), page(device("a"), device("b"), device("c"), next="more", counts=counts))
    shown = scripted.run("health", "--limit", "2", capsys=capsys)
    assert "and 9001 more" in shown.err
    assert len(api.requests) == 2


@pytest.mark.parametrize("command", ["health", "top"])
def test_a_verdict_that_is_none_is_a_usage_error(command: str, scripted: Operator, capsys: Capture) -> None:
    refused = scripted.run(command, "--verdict", "failing,poorly", "-o", "json", capsys=capsys)
    assert (refused.code, refused.json["code"]) == (2, "usage.verdict")


@pytest.mark.parametrize("words", [(), ("--once",)])
def test_top_prints_once_where_nobody_looks(
    words: tuple[str, ...], scripted: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    api.script(page(device(), device("gw-2", "healthy", beam=None, host=None)))
    shown = scripted.run("top", "--sort", "memory", "--verdict", "failing,healthy", *words, capsys=capsys)
    assert shown.code == 0
    header, first, second = shown.out.splitlines()
    assert header.split()[:3] == ["DEVICE", "HEALTH", "MEMORY"]
    assert first.split()[:4] == ["gw-1", "failing", "91.0", "MB"]
    assert second.split()[:3] == ["gw-2", "healthy", "-"]
    assert "sort=memory" in api.paths[0]
    assert "1 failing, 1 degraded, 2 healthy; 2 shown by memory" in shown.err


def test_top_for_scripts_is_an_array_with_the_times_of_the_server(
    scripted: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    api.script(page(device()), page(device()))
    assert scripted.run("top", "-o", "json", capsys=capsys).json == [device()]
    assert scripted.run("top", "-o", "name", capsys=capsys).out == "gw-1\n"


def watched(api: ScriptedApi, keys: str) -> str:
    """What a terminal was given while these keys were hit; `.` for none in time."""
    screen, hit = Screen(), iter(keys)
    output = Output(screen, io.StringIO())
    client = api.client(lambda _: None, iter(range(10_000)).__next__)
    with top.Screen(output, top.Sort.VERDICT, lambda: NOW) as drawn:
        top.watch(client, {"selector": "site=berlin"}, 0, drawn, lambda: next(hit).strip("."))
    client.close()
    return screen.getvalue()


def test_a_terminal_is_drawn_again_and_again_and_given_back(api: ScriptedApi) -> None:
    api.script(page(device("gw-1")), page(device("gw-7")))
    said = watched(api, ".q")
    assert "gw-1" in said
    assert "gw-7" in said
    assert said.rindex("\x1b[?1049l") > said.rindex("gw-7"), "the screen that was there before is back"
    assert "limit=" in api.paths[0]


def test_keys_sort_it_anew_and_others_do_nothing(api: ScriptedApi) -> None:
    api.script(*[page(device())] * 4)
    assert "1 shown by memory" in watched(api, "mxlq")
    assert [path.partition("sort=")[2].partition("&")[0] for path in api.paths] == [
        "verdict", "memory", "memory", "load",
    ]  # fmt: skip
    assert len(set(top.KEYS.values())) == len(top.Sort)


def test_while_the_server_is_away_the_last_picture_stays_and_says_so(api: ScriptedApi) -> None:
    api.script(page(device("gw-1")), Answer(drop=True), page(device("gw-7")))
    said = watched(api, ".q")
    trouble = said.index("cannot be reached; waiting for it")
    assert "gw-1" in said[trouble:]
    assert "gw-7" in said[trouble:]


@pytest.mark.parametrize("width", [60, 100, 200])
def test_a_picture_has_a_line_for_each_device_and_nothing_that_drives_a_terminal(width: int) -> None:
    from rich.console import Console

    hostile = [{"check": HOSTILE, "level": "failing", "detail": HOSTILE * 9}]
    found = {"items": [device(HOSTILE, product=HOSTILE, reasons=hostile)] * 30, "counts": COUNTS}
    out = io.StringIO()
    Console(file=out, width=width, height=20, markup=False).print(
        top.picture(found, "verdict", NOW, HOSTILE, 10, width)
    )
    drawn = out.getvalue().splitlines()
    assert len(drawn) == 2 + 1 + 10
    assert len({len(line) for line in drawn[3:]}) == 1
    assert all(character.isprintable() for line in drawn for character in line)


@pytest.mark.parametrize("key", ["q", "ctrl-c"])
def test_q_and_ctrl_c_end_top_without_a_word(key: str, scripted: Operator, api: ScriptedApi) -> None:
    api.script(*[page(device())] * 100)
    leader, follower = pty.openpty()
    environment = clean_environment() | {"BEAMFLEET_CONFIG_DIR": str(scripted.directory), "TERM": "xterm"}
    words = [str(COMMAND), "top", "--every", "1s"]
    before = termios.tcgetattr(follower)
    with subprocess.Popen(words, stdin=follower, stdout=follower, stderr=subprocess.PIPE, env=environment) as process:
        try:
            drawn(leader, rb"gw-1 +failing")
            if key == "q":
                os.write(leader, b"q")
            else:
                process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert termios.tcgetattr(follower) == before, "the terminal is as it was"
            assert process.stderr
            assert process.stderr.read() == b""
        finally:
            process.kill()
            os.close(follower)
            os.close(leader)


def drawn(terminal: int, pattern: bytes) -> None:
    """Wait until this is on the terminal."""
    seen, end = b"", time.monotonic() + 30
    while not re.search(pattern, ESCAPES.sub(b"", seen)):
        assert time.monotonic() < end, f"it was never drawn: {seen[-2000:]!r}"
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096)


def test_values_become_blocks_of_the_lowest_to_the_highest() -> None:
    assert vitals.spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert vitals.spark([5, None, 5]) == "▁ ▁"
    assert vitals.spark([]) == ""
    assert vitals.spark([None] * 3) == "   "


def test_of_more_values_than_blocks_the_largest_counts() -> None:
    drawn = vitals.spark([0.0] * 500 + [9.0] + [0.0] * 500, 40)
    assert len(drawn) == 40
    assert drawn.count("█") == 1


def test_memory_over_time_is_a_line_with_its_ends() -> None:
    def at(minute: int, **more: Any) -> dict[str, Any]:
        return {"time": f"2026-11-23T10:{minute:02}:00Z", "n": 5, **more}

    items = [at(5, memory=[1, 41_000_000]), at(10, memory=[1, 55_000_000]), at(25, memory=[1, 41_000_000]), at(30)]
    assert vitals.show_memory({"resolution_s": 300, "items": items}) == "▁█  ▁ 41.0 MB to 55.0 MB in 25m"
    assert vitals.show_memory({"resolution_s": 300, "items": [at(0, memory=None)]}) == ""
    assert vitals.show_memory({"resolution_s": 300, "items": []}) == ""


def test_sections_are_told_in_words_and_what_was_never_said_is_left_out() -> None:
    health = {
        "sections": {
            "beam": {
                "uptime_ms": 90_000, "memory": {"total": 40_000_000, "ets": 1_000_000, "binary": 9_000_000},
                "otp": "25", "processes": [120, 262_144], "run_queue": 2, "schedulers": 31, "restarts": 3,
                "said": ["degraded", "slow"], "queues": [["logger", 104_233]], "metrics": {"rps": 1.5},
            },
            "applications": ["kernel 8.5", "sensor_gateway 1.1.0"],
            "probes": {"readiness": ["failed", "503"], "liveness": ["ok", ""]},
            "host": {
                "load": [150, 100, 5], "memory": [250, 1000], "disk": [0, 0], "temperature": 45_300, "wear": 3,
                "network": "wired",
            },
        }
    }  # fmt: skip
    shown = dict(vitals.sections(health))
    assert shown["says"] == "degraded slow"
    assert shown["probes"] == "liveness ok, readiness failed 503"
    assert shown["beam"] == (
        "OTP 25, up 1m 30s, 120 processes (0.0 %), run queue 2, schedulers 3 %, 3 restarts by supervisors"
    )
    assert shown["beam memory"] == "40.0 MB, binary 9.0 MB, ets 1.0 MB"
    assert shown["queues"] == "logger 104233"
    assert (
        shown["host"]
        == "load 1.50 1.00 0.05, memory 75 % of 1.0 kB used, disk 0 % of 0 B used, 45.3 °C, flash 3 % worn, wired"
    )
    assert vitals.sections({"sections": {"beam": None}}) == []
    assert vitals.sections({}) == []


def test_verdicts_come_by_commas_and_by_repeating() -> None:
    assert vitals.parse_verdicts(["failing, degraded", "offline"]) == ["failing", "degraded", "offline"]
    with pytest.raises(CommandError):
        vitals.parse_verdicts(["well"])


EVENTS = [
    {"id": 1, "time": "2026-11-23T10:00:00Z", "device": "gw-1", "kind": "update", "cause": "", "detail": "",
     "rollout": None, "data": {"product": "sensor-gateway", "version": "1.1.0", "phase": "committed", "attempt": 1}},
    {"id": 2, "time": "2026-11-23T11:00:00Z", "device": "gw-1", "kind": "restart", "cause": "crash", "detail": "exit 1",
     "rollout": None,
     "data": {"starts": 3, "evidence": {"slogan": "Kernel pid terminated" + HOSTILE, "status": "1", "log": []}}},
]  # fmt: skip


def test_device_show_has_reasons_memory_and_the_history_of_updates_and_restarts(
    scripted: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    reasons = [{"check": "atoms", "level": "degraded", "detail": "90 % of the atom table"}]
    health = {"verdict": "degraded", "reasons": reasons, "time": "2026-11-23T11:59:15Z", "sections": {"beam": None}}
    shown = {
        "id": "gw-1", "labels": {}, "online": True, "last_seen": "2026-11-23T11:59:15Z", "product": "sensor-gateway",
        "version": "1.1.0", "phase": "committed", "slot": "a" * 32, "starts": 3, "cause": "crash", "health": health,
        "enrolled": "2026-11-23T09:00:00Z", "update": None, "history": [], "inventory": {},
    }  # fmt: skip
    samples = {"resolution_s": 300, "items": [{"time": "2026-11-23T11:55:00Z", "n": 5, "memory": [1, 2_000_000]}]}
    api.script(Answer(shown), Answer(samples), Answer({"items": EVENTS, "next": None}))
    told = scripted.run("device", "show", "gw-1", capsys=capsys)
    assert told.code == 0
    assert "atoms: 90 % of the atom table" in told.out
    assert "▁ 2.0 MB to 2.0 MB in 5m" in told.out
    newest, oldest = told.out.splitlines()[-2:]
    assert "Kernel pid terminated" in newest
    assert "sensor-gateway 1.1.0 committed" in oldest
    assert "\x1b" not in told.out
    assert "kind=update&kind=restart" in api.paths[2]

    api.script(Answer(shown), Answer(samples))
    found = scripted.run("device", "show", "gw-1", "-o", "json", capsys=capsys).json
    assert found == {**shown, "samples": samples}
    assert json.dumps(found).count('Z"') == 4, "times stay in UTC"
