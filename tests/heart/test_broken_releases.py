"""Releases that do not stay, and no agent anywhere: the launcher alone goes back, and the old release answers again
within the time of the trial and 15 s more, with the owner's data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from tests.heart.conftest import Make, Told
from tests.heart.device import TRIAL_S, HeartDevice, application
from tests.support.launcher_device import NEW, OLD, boot_clock_ms

pytestmark = [pytest.mark.suite(name="heart"), pytest.mark.timeout(600)]

BACK_S = 15
SHORT_S = 15
HANGS = "receive never -> ok end"


@dataclass(frozen=True, slots=True)
class Broken:
    """How a release is broken: further VM arguments, or damaged files (a prefix of their bytes, or other bytes), or
    a start/2 of its application that does something else. `cause` is why it does not stay."""

    what: str
    cause: str
    kind: str = "relx"
    version: str = "1.1.0"
    evaluated: str = ""
    damaged: Mapping[str, int | bytes] = field(default_factory=dict)
    start: str = ""
    trial_s: int = TRIAL_S
    detail: str = ""

    def lay(self, device: HeartDevice) -> None:
        written = device.written(self.version)
        replaced = application(self.kind, self.version, self.start) if self.start else {}
        for pattern, damage in self.damaged.items():
            (path,) = written.glob(pattern)
            content = path.read_bytes()[:damage] if isinstance(damage, int) else damage
            replaced[str(path.relative_to(written))] = content
        arguments: Sequence[str] = ("-eval", self.evaluated) if self.evaluated else ()
        device.give(NEW, self.version, arguments=arguments, replaced=replaced)


def after(milliseconds: int, act: str) -> str:
    return f"spawn(fun()->timer:sleep({milliseconds}),{act} end)."


BROKEN = (
    Broken("dies at start", "crash", version="1.2.0", detail="application_start_failure,sensor_gateway"),
    Broken("dies at start, mix", "crash", kind="mix", start="{error, no_such_port}", detail="no_such_port"),
    Broken("garbage beam.smp", "crash", damaged={"erts-*/bin/beam.smp": b"\x7fELFgarbage"}),
    Broken("empty beam.smp, mix", "crash", kind="mix", damaged={"erts-*/bin/beam.smp": b""}),
    Broken("truncated boot file", "crash", damaged={"releases/*/start.boot": 1000}),
    Broken("truncated boot file, mix", "crash", kind="mix", damaged={"releases/*/start.boot": 1000}),
    Broken("hangs in init", "deadline", start=HANGS, trial_s=SHORT_S),
    Broken("hangs in init, mix", "deadline", kind="mix", start=HANGS, trial_s=SHORT_S),
    Broken("crash loop", "crash", evaluated=after(300, "exit(whereis(application_controller), kill)")),
    Broken("crash loop, mix", "crash", kind="mix", evaluated=after(300, "halt(3)"), detail="status 3"),
    Broken("halt", "exit", evaluated="halt()."),
    Broken("halt(abort)", "crash", evaluated="halt(abort).", detail="status 134"),
    Broken("init:stop", "exit", evaluated="init:stop()."),
    Broken("init:stop, mix", "exit", kind="mix", evaluated="init:stop()."),
    Broken("init:reboot", "exit", evaluated="init:reboot()."),
    Broken("killed by itself", "crash", evaluated=after(500, 'os:cmd("kill -9 " ++ os:getpid())'), detail="status 137"),
)


def reverted(device: HeartDevice, broken: Broken, attempt: int = 1) -> int:
    """Swap to the broken release; how long it took until the old one had begun again, in ms."""
    starts, asked_ms = device.boot.state().starts, boot_clock_ms()
    number = device.boot.request(f"swap {NEW} {attempt}")
    device.until("the swap", lambda s: s.last_request >= number)
    device.until(f"{broken.what} to be reverted", lambda s: s.phase == "reverted", broken.trial_s + 40)
    device.runs(OLD, after=starts + 1)
    return device.back_ms(asked_ms)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.what)
def test_the_launcher_alone_goes_back(make: Make, told: Told, broken: Broken, request: pytest.FixtureRequest) -> None:
    if broken.detail == "status 137":
        request.getfixturevalue("no_oom")
    device = make(broken.kind)
    device.serve()
    if broken.trial_s != TRIAL_S:
        device.set(trial_deadline_s=broken.trial_s)
    broken.lay(device)
    away_ms = reverted(device, broken)
    state = device.boot.state()
    assert (state.failed_slot, state.failed_attempt, state.failed_cause) == (NEW, 1, broken.cause)
    assert (state.slot, state.cause) == (OLD, "revert")
    assert broken.detail in state.detail
    assert away_ms <= (broken.trial_s + BACK_S) * 1000
    assert device.outcome(f"swap {NEW} 1") == "refused:reverted"
    device.alone()
    told(f"old release back after {away_ms} ms of at most {(broken.trial_s + BACK_S) * 1000}")


@pytest.mark.parametrize("trial_s", [30, 90], ids=["trial of 30 s", "trial of 90 s"])
def test_a_release_that_crashes_after_20_s_is_reverted_for_that(make: Make, told: Told, trial_s: int) -> None:
    broken = Broken("crash after 20 s", "crash", evaluated=after(20_000, "halt(1)"), trial_s=trial_s)
    device = make("relx")
    device.serve()
    device.set(trial_deadline_s=trial_s)
    broken.lay(device)
    away_ms = reverted(device, broken)
    state = device.boot.state()
    assert (state.failed_slot, state.failed_cause, state.detail) == (NEW, "crash", "crash: status 1")
    assert 20_000 <= away_ms <= (trial_s + BACK_S) * 1000
    device.alone()
    told(f"old release back after {away_ms} ms of at most {(trial_s + BACK_S) * 1000}")


@pytest.mark.parametrize("kind", ["relx", "mix"])
def test_a_good_release_that_no_agent_confirms_is_reverted_and_may_come_again(
    make: Make, told: Told, kind: str
) -> None:
    device = make(kind)
    device.serve()
    device.set(trial_deadline_s=SHORT_S)
    device.give(NEW, "1.1.0")
    away_ms = reverted(device, Broken("a good release", "unconfirmed", trial_s=SHORT_S))
    assert device.boot.state().failed == f"{NEW}:1:unconfirmed"
    assert away_ms <= (SHORT_S + BACK_S) * 1000
    starts = device.boot.state().starts
    assert device.outcome(f"swap {NEW} 1") == "ok"
    device.runs(NEW, after=starts)
    assert device.outcome(f"confirm {NEW} 1") == "ok"
    assert device.boot.state().phase == "committed"
    facts = device.http()
    assert facts
    assert facts["version"] == "1.1.0"
    device.alone()
    told(f"old release back after {away_ms} ms of at most {(SHORT_S + BACK_S) * 1000}")
