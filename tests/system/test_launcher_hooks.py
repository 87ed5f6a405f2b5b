"""The owner's hooks as the launcher runs them, with real BEAMs and no agent: when, with what, and what they decide."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import release_slots
from tests.support.fleet import wait_for
from tests.support.launcher_device import NEW, OLD, LauncherDevice

TELL = """#!/bin/sh
from=${BEAMFLEET_FROM##*/} to=${BEAMFLEET_TO##*/} pid=$(cat @RUN@/vm.pid 2>/dev/null)
echo "$BEAMFLEET_HOOK ${from:--} ${to:--} ${BEAMFLEET_FROM_SCHEMA:--} ${BEAMFLEET_TO_SCHEMA:--} $BEAMFLEET_ATTEMPT" \\
  "$([ -d "/proc/$pid" ] && echo up || echo down)" >>"$BEAMFLEET_DATA/told"
echo "this is $BEAMFLEET_HOOK"
"""


class HookedDevice(LauncherDevice):
    """A device whose hooks write down what they were given."""

    def hook(self, point: str, name: str = "10-tell", script: str = TELL) -> Path:
        folder = self.root / "usr/lib/beamfleet/hooks.d" / point
        folder.mkdir(mode=0o755, exist_ok=True)
        made = folder / name
        made.write_text(script.replace("@RUN@", str(self.run)))
        made.chmod(0o755)
        return made

    def told(self) -> list[str]:
        """What the hooks wrote down, in order."""
        path = self.app / "data/told"
        return path.read_text().splitlines() if path.exists() else []

    def answer(self, point: str) -> list[str]:
        """The first line and the output of `boot/hook.POINT`, when it is there."""
        path = self.app / "boot" / f"hook.{point}"
        return wait_for(
            f"hook.{point}", lambda: path.read_text().splitlines() if path.exists() else None, deadline_s=20
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[HookedDevice]:
    made = HookedDevice(tmp_path, {"hook_timeout_s": 2})
    for name, schema in ((OLD, 3), (NEW, 4)):
        release_slots.tiny(made.slot(name))
        with (made.slot(name) / ".beamfleet/launch").open("a") as launch:
            launch.write(f"data_schema={schema}\n")
    made.start()
    yield made
    made.stop()


def test_an_update_runs_its_hooks_in_order_with_both_releases_and_the_schemas_of_their_data(
    bench: HookedDevice,
) -> None:
    bench.install(OLD)
    for point in ("pre-swap", "post-swap", "commit", "revert"):
        bench.hook(point)
    bench.boot.request(f"hook pre-swap {NEW} 7")
    assert bench.answer("pre-swap") == [f"{NEW} 7 0 -", "this is pre-swap"]
    bench.install(NEW, 7)
    assert bench.answer("commit") == [f"{NEW} 7 0 -", "this is commit"]
    bench.until("the commit hook to be over", lambda s: s.due == "")
    names = f"{OLD} {NEW} 3 4 7"
    assert bench.told() == [f"pre-swap {names} up", f"post-swap {names} down", f"commit {names} up"]


def test_a_commit_hook_that_takes_its_time_does_not_keep_a_crashed_release_down(bench: HookedDevice) -> None:
    bench.hook("commit", script="#!/bin/sh\n: >$BEAMFLEET_DATA/begun\nexec sleep 60\n")
    with (bench.root / "etc/beamfleet/launcher.conf").open("a") as conf:
        conf.write("hook_timeout_s=50\n")
    bench.stop()
    bench.start()
    before = bench.install(OLD).starts
    wait_for("the hook", (bench.app / "data/begun").exists, deadline_s=20)
    os.kill(bench.vm(), signal.SIGKILL)
    assert bench.runs(OLD, after=before).due == "commit"


def test_the_revert_hook_runs_after_the_failed_release_and_before_the_old_one_starts(bench: HookedDevice) -> None:
    before = bench.install(OLD).starts
    bench.hook("revert")
    next(bench.slot(NEW).glob("erts-*/bin/beam.smp")).write_bytes(b"garbage")
    bench.boot.request(f"swap {NEW} 1")
    bench.runs(OLD, after=before + 3)
    assert bench.told() == [f"revert {NEW} {OLD} 4 3 1 down"]
    assert bench.boot.state().due == ""


def test_a_revert_hook_that_was_cut_short_runs_again_when_the_launcher_is_back(bench: HookedDevice) -> None:
    bench.install(OLD)
    bench.hook("revert", script="#!/bin/sh\n: >$BEAMFLEET_DATA/begun\nexec sleep 60\n")
    bench.boot.request(f"swap {NEW} 1")
    bench.runs(NEW, after=1)
    bench.boot.request("rollback")
    wait_for("the hook", (bench.app / "data/begun").exists, deadline_s=20)
    bench.kill()
    bench.hook("revert")
    bench.start()
    bench.runs(OLD, after=2)
    assert bench.told() == [f"revert {NEW} {OLD} 4 3 1 down"]


def test_a_revert_hook_that_hangs_ends_at_its_time_limit_and_does_not_keep_the_old_release_down(
    bench: HookedDevice,
) -> None:
    bench.install(OLD)
    bench.hook("revert", script="#!/bin/sh\necho before\nexec sleep 60\n")
    bench.boot.request(f"swap {NEW} 1")
    bench.runs(NEW, after=1)
    bench.boot.request("rollback")
    bench.runs(OLD, after=2)
    assert bench.answer("revert") == [f"{OLD} 1 124 10-tell", "before"]


def test_a_post_swap_hook_that_fails_reverts_before_the_new_release_ever_starts(bench: HookedDevice) -> None:
    before = bench.install(OLD).starts
    bench.hook("post-swap", "10-bad", "#!/bin/sh\necho no room >&2\nexit 3\n")
    bench.hook("post-swap", "20-never")
    bench.boot.request(f"swap {NEW} 1")
    state = bench.runs(OLD, after=before)
    assert (state.phase, state.failed, state.starts) == ("reverted", f"{NEW}:1:hook", before + 1)
    assert bench.answer("post-swap") == [f"{NEW} 1 3 10-bad", "no room"]
    assert bench.told() == []
    assert bench.outcome(f"swap {NEW} 1") == "refused:reverted"


def test_a_post_swap_hook_that_asks_for_more_time_gets_it(bench: HookedDevice) -> None:
    bench.install(OLD)
    bench.hook(
        "post-swap", script="#!/bin/sh\n[ -e $BEAMFLEET_DATA/asked ] || { : >$BEAMFLEET_DATA/asked; exit 21; }\n"
    )
    with (bench.root / "etc/beamfleet/launcher.conf").open("a") as conf:
        conf.write("trial_deadline_s=30\n")
    bench.stop()
    bench.start()
    assert bench.install(NEW).phase == "committed"


@pytest.mark.parametrize("case", ["writable", "folder", "link", "not executable"])
def test_a_hook_that_others_could_have_written_is_skipped_and_named(bench: HookedDevice, case: str) -> None:
    bench.install(OLD)
    made = bench.hook("pre-swap")
    match case:
        case "writable":
            made.chmod(0o777)
        case "folder":
            made.parent.chmod(0o777)
        case "link":
            made.rename(bench.root / "elsewhere")
            made.symlink_to(bench.root / "elsewhere")
        case _:
            made.chmod(0o644)
    bench.boot.request(f"hook pre-swap {NEW} 1")
    first, text = bench.answer("pre-swap")
    assert first == f"{NEW} 1 0 -"
    assert text.startswith("10-tell: skipped")
    assert bench.told() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_hook_of_another_user_is_skipped(bench: HookedDevice) -> None:
    bench.install(OLD)
    os.chown(bench.hook("pre-swap"), 65534, 65534)
    bench.boot.request(f"hook pre-swap {NEW} 1")
    assert bench.answer("pre-swap")[1].startswith("10-tell: skipped")


@pytest.mark.parametrize(
    "line", ["hook", "hook commit a 1", "hook pre-swap ../../etc 1", "hook pre-swap a x", f"hook revert {NEW} 1"]
)
def test_a_request_for_hooks_that_makes_no_sense_runs_nothing(bench: HookedDevice, line: str) -> None:
    bench.install(OLD)
    for point in ("pre-swap", "commit", "revert"):
        bench.hook(point)
    bench.boot.request(line)
    bench.boot.request(f"hook pre-swap {OLD} 5")
    bench.answer("pre-swap")
    assert [words.split()[0] for words in bench.told()] == ["pre-swap"]


def test_what_a_hook_prints_is_kept_to_two_kilobytes(bench: HookedDevice) -> None:
    bench.install(OLD)
    bench.hook("pre-swap", script="#!/bin/sh\nyes loud | head -c 300000\n")
    bench.boot.request(f"hook pre-swap {NEW} 1")
    bench.answer("pre-swap")
    assert (bench.app / "boot/hook.pre-swap").stat().st_size <= 2048 + 64
