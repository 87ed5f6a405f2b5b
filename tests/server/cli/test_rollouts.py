"""`beamfleet rollout` and what belongs to it, against a real server with devices that speak MQTT."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.server.cli.terminal import Ended, Operator
from tests.server.conftest import PRODUCT, Centre, open_centre
from tests.support.mqtt_device import MqttDevice, committed, update
from tests.support.server import eventually, running_server

Capture = pytest.CaptureFixture[str]
PLAN = """\
devices:
  labels: {shelf: LABEL}
phases:
  - {name: one, devices: 1, soak: 10m, gate: true}
  - {name: two, devices: 50%, failures: 2%}
window:
  - {from: 00:00, to: 24:00}
"""


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    work = tmp_path_factory.mktemp("rollouts")
    with running_server(work / "server") as server:
        centre = open_centre(work, server)
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            centre.author.publish(PRODUCT, version)
        bystander = centre.device("bystander")
        bystander.acknowledged(bystander.report())
        yield centre
        bystander.close()


@pytest.fixture
def operator(centre: Centre, tmp_path: Path, capsys: Capture) -> Operator:
    operator = Operator(tmp_path / "operator")
    server = centre.server
    words = ["--token-file", str(server.data / "admin.token"), "--ca", str(server.ca)]
    assert operator.run("login", server.facts["operators"], *words, capsys=capsys).code == 0
    return operator


class Bench:
    """One person, some devices with a label of their own, and the command line."""

    def __init__(self, centre: Centre, operator: Operator, capsys: Capture, label: str) -> None:
        self.centre, self.label = centre, label
        self._operator, self._capsys = operator, capsys
        self.devices = [centre.device(f"{label}-{number}", labels={"shelf": label}) for number in range(1, 4)]
        for device in self.devices:
            device.acknowledged(device.report())
        self.manifests = {
            bundle["version"]: bundle["manifest"] for bundle in centre.server.get("/bundles")["items"]
        }  # fmt: skip

    def run(self, *words: str, code: int = 0) -> Ended:
        done = self._operator.run(*words, capsys=self._capsys)
        assert done.code == code, done.out + done.err
        return done

    def json(self, *words: str, code: int = 0) -> Any:
        return self.run(*words, "-o", "json", code=code).json

    def start(self, version: str, *words: str) -> str:
        return str(self.json("rollout", "start", PRODUCT, version, "-l", f"shelf={self.label}", *words)["id"])

    def canary(self) -> MqttDevice:
        return eventually("an offer", lambda: next((each for each in self.devices if each.desired), None))

    def commit(self, version: str, *devices: MqttDevice, attempt: int = 1) -> None:
        for device in devices:
            eventually("an offer", partial(_offered, device))
            device.acknowledged(device.report(**committed(self.manifests[version], version, attempt)))


def _offered(device: MqttDevice) -> bool:
    return bool(device.desired and device.desired[-1]["targets"])


@pytest.fixture
def bench(centre: Centre, operator: Operator, capsys: Capture, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(centre, operator, capsys, f"b{len(centre.server.get('/devices?limit=1000')['items'])}")
    yield bench
    for device in bench.devices:
        device.close()


def code_of(ended: Ended) -> str:
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    return line.rpartition("(")[2].rstrip(")")


def test_a_plan_is_looked_at_started_and_steered_to_its_end(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN.replace("LABEL", bench.label).replace("soak: 10m, ", ""))
    words = ("rollout", "start", PRODUCT, "1.0.0", "-f", str(file))
    seen = bench.run(*words, "--dry-run")
    for word in ("one", "two", "rest", "a person opens it", "x86_64-glibc-otp25", "labels.shelf", "UTC"):
        assert word in seen.out
    assert "nothing was changed" in seen.err
    assert bench.json(*words, "--dry-run")["devices"] == 3
    assert bench.run(*words, "--dry-run", "-o", "yaml").out.startswith("product: ")

    number = str(bench.json(*words)["id"])
    shown = bench.json("rollout", "status", number)
    assert [phase["name"] for phase in shown["phases"]] == ["one", "two", "rest"]
    assert code_of(bench.run("rollout", "approve", number, code=1)) == "rollout.no_gate"
    canary = bench.canary()
    bench.commit("1.0.0", canary)
    eventually("the gate", lambda: bench.json("rollout", "status", number)["gate"] == "waiting")
    assert f"beamfleet rollout approve {number}" in bench.run("rollout", "status", number).out
    approved = bench.run("rollout", "approve", number)
    assert "the gate after one is open" in approved.out
    others = [device for device in bench.devices if device is not canary]
    while others:
        offered = eventually("an offer", lambda: next((each for each in others if each.desired), None))
        bench.commit("1.0.0", offered)
        others.remove(offered)
    ended = bench.run("rollout", "status", number, "--watch", "--timeout", "60s")
    assert "completed, 3 committed" in ended.out
    assert bench.run("rollout", "devices", number, "--state", "committed", "-o", "name").out.split() == [
        device.name for device in bench.devices
    ]
    assert len(bench.json("rollout", "devices", number, "--phase", "one")) == 1


def test_flags_win_over_the_lines_of_a_file(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(f"product: {PRODUCT}\nversion: 1.0.0\ndevices: {{all: true}}\nmax_parallel: 3\ndeadline: 2h\n")
    words = ("-f", str(file), "-l", f"shelf={bench.label}", "--max-parallel", "1", "--canary", "2")
    started = bench.json("rollout", "start", *words)
    plan = started["plan"]
    assert (plan["max_parallel"], plan["deadline"], plan["version"]) == (1, "2h", "1.0.0")
    assert plan["devices"]["labels"] == {"shelf": [bench.label]}
    assert [(phase["name"], phase["devices"]) for phase in plan["phases"]] == [("canary", 2), ("rest", "all")]
    bench.run("rollout", "abort", str(started["id"]))


def test_a_refusal_of_a_plan_names_the_line_of_the_file(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        f"product: {PRODUCT}\nversion: 1.0.0\ndevices: {{all: true}}\nphases:\n  - {{name: a, soak: long}}\n"
    )
    refused = bench.run("rollout", "start", "-f", str(file), "--dry-run", code=1)
    assert code_of(refused) == "plan.duration"
    assert f"error: {file}:5: phases[0].soak: " in refused.err
    file.write_text("product: x\nproduct: y\n")
    assert code_of(bench.run("rollout", "start", "-f", str(file), code=1)) == "rollout.plan_file"


def test_a_plan_without_a_release_or_for_another_product_is_a_usage_error(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("devices: {all: true}\n")
    assert code_of(bench.run("rollout", "start", "-f", str(file), code=2)) == "usage.plan"
    assert code_of(bench.run("rollout", "start", PRODUCT, "-f", str(file), code=2)) == "usage.plan"
    file.write_text("product: other\ndevices: {all: true}\n")
    assert code_of(bench.run("rollout", "start", PRODUCT, "1.0.0", "-f", str(file), code=2)) == "usage.plan"


def test_a_pause_is_watched_out_and_an_abort_ends_the_watching_with_code_4(bench: Bench) -> None:
    number = bench.start("1.1.0")
    for _ in range(2):
        paused = bench.run("rollout", "pause", number, "--reason", "lunch")
        assert (paused.out, f"rollout resume {number}" in paused.err) == (f"rollout {number} is paused\n", True)
    waiting = bench.run("rollout", "status", number, "--watch", "--timeout", "1s", code=5)
    assert waiting.err.count(f"beamfleet rollout resume {number} goes on") == 1
    assert "(rollout.deadline)" in waiting.err
    assert bench.json("rollout", "resume", number)["state"] == "running"
    for _ in range(2):
        assert bench.json("rollout", "abort", number, "--reason", "enough")["state"] == "aborted"
    assert "(rollout.aborted)" in bench.run("rollout", "status", number, "--watch", code=4).err


def test_a_halt_is_code_3_with_reasons_then_lifted_and_tried_again(bench: Bench) -> None:
    number = bench.start("1.2.0")
    canary = bench.canary()
    canary.acknowledged(canary.report(update=update("reverted", bench.manifests["1.2.0"], reason="crash")))
    halted = bench.run("rollout", "status", number, "--watch", "--timeout", "60s", code=3)
    assert f"1 reverted: crash, for example {canary.name}" in halted.err
    assert "(rollout.halted)" in halted.err
    assert number in bench.run("rollout", "history", "--state", "halted", "-o", "name").out.split()
    assert bench.run("quarantine", "list", "-o", "name").out == bench.manifests["1.2.0"] + "\n"
    assert PRODUCT in bench.run("quarantine", "list").out
    again = bench.run("rollout", "start", PRODUCT, "1.2.0", "-l", f"shelf={bench.label}", code=1)
    assert code_of(again) == "release.quarantined"
    assert "beamfleet quarantine lift" in again.err
    assert "1 bundle is lifted" in bench.run("quarantine", "lift", PRODUCT, "1.2.0").out
    assert code_of(bench.run("quarantine", "lift", "a" * 64, code=1)) == "quarantine.unknown"
    assert bench.run("quarantine", "list", "--all", "-o", "name").out == bench.manifests["1.2.0"] + "\n"
    assert bench.json("rollout", "retry", number, "--device", canary.name) == {"rollout": int(number), "retried": 1}
    bench.run("rollout", "abort", number)


def test_what_was_committed_is_shown_as_a_diff_and_undone(bench: Bench) -> None:
    first = bench.start("1.0.0", "--canary", "3")
    bench.commit("1.0.0", *bench.devices)
    bench.run("rollout", "status", first, "--watch", "--timeout", "60s")
    second = bench.start("1.1.0", "--canary", "3")
    bench.commit("1.1.0", *bench.devices)
    bench.run("rollout", "status", second, "--watch", "--timeout", "60s")
    row = bench.run("rollout", "diff", second).out.splitlines()[1].split()
    assert row[:4] == ["x86_64-glibc-otp25", "1.0.0", "1.1.0", "3"]
    undoing = bench.json("rollout", "undo", second)
    assert (undoing["kind"], undoing["of"]) == ("undo", int(second))
    assert f"undoes {second}" in bench.run("rollout", "status", str(undoing["id"])).out
    assert str(undoing["id"]) in bench.run("rollout", "history", "--kind", "undo", "-o", "name").out.split()
    bench.run("rollout", "abort", str(undoing["id"]))


def test_a_pinned_device_is_left_out_and_says_why(bench: Bench) -> None:
    name = bench.devices[0].name
    assert f"{name} is pinned: bench" in bench.run("device", "pin", name, "--reason", "bench").out
    assert "bench" in bench.run("device", "show", name).out
    seen = bench.json("rollout", "start", PRODUCT, "1.0.0", "-l", f"shelf={bench.label}", "--dry-run")
    assert {"reason": "pinned", "count": 1, "examples": [name]} in seen["excluded"]
    assert bench.json("device", "unpin", name)["pinned"] == ""


def test_a_large_rollout_is_accepted_by_somebody_else_with_the_same_plan(tmp_path: Path, capsys: Capture) -> None:
    with running_server(tmp_path / "server", approval_above=1) as server:
        small = open_centre(tmp_path, server)
        small.author.publish(PRODUCT, "1.0.0")
        devices = [small.device(f"two-{number}") for number in (1, 2)]
        for device in devices:
            device.acknowledged(device.report())
        second = server.post("/operators", {"name": "second", "role": "operator"})["token"]
        (tmp_path / "second.token").write_text(second)
        people = [Operator(tmp_path / name) for name in ("first", "second")]
        tokens = (server.data / "admin.token", tmp_path / "second.token")
        for person, token in zip(people, tokens, strict=True):
            words = ["login", server.facts["operators"], "--token-file", str(token), "--ca", str(server.ca)]
            assert person.run(*words, capsys=capsys).code == 0
        wish = ("rollout", "start", PRODUCT, "1.0.0", "--all", "--phase", "name=half,devices=50%,gate")
        refused = people[0].run(*wish, capsys=capsys)
        assert (refused.code, code_of(refused), "beamfleet approval accept 1" in refused.err) == (
            1, "rollout.needs_approval", True,
        )  # fmt: skip
        own = people[0].run("approval", "accept", "1", capsys=capsys)
        assert code_of(own) == "approval.own"
        assert people[1].run("approval", "list", "-o", "name", capsys=capsys).out == "1\n"
        accepted = people[1].run("approval", "accept", "1", "-o", "json", capsys=capsys)
        assert [phase["name"] for phase in accepted.json["plan"]["phases"]] == ["half", "rest"]
        assert code_of(people[1].run("approval", "reject", "1", capsys=capsys)) == "approval.decided"
        for device in devices:
            device.close()


def test_the_same_start_asked_twice_after_a_lost_answer_is_one_rollout(bench: Bench) -> None:
    plan = {"product": PRODUCT, "version": "1.0.0", "devices": {"labels": {"shelf": bench.label}}}
    body = {"key": "0123456789abcdef", "plan": plan}
    first = bench.centre.server.post("/rollouts", body)
    assert bench.centre.server.post("/rollouts", body, 200)["id"] == first["id"]
    bench.run("rollout", "abort", str(first["id"]))
