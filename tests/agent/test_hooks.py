"""Hooks as the agent sees them: asked for by a request, answered by a file that scripts have written into."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from beamfleet_agent import hooks as module
from beamfleet_agent.boot import Boot
from beamfleet_agent.hooks import Answer, Hooks, read
from beamfleet_agent.journal import Ledger
from beamfleet_agent.loop import Loop
from beamfleet_agent.paths import Paths
from beamfleet_agent.reports import Reports
from beamfleet_agent.telemetry import rhythm
from beamfleet_bundles import messages
from hypothesis import given
from hypothesis import strategies as st

Spin = Callable[[str, Callable[[], object]], None]
A, B = "a" * 32, "b" * 32


class Owner:
    """A device whose owner may have hooks, and what became of them."""

    def __init__(self, loop: Loop, paths: Paths) -> None:
        self.paths, self.requests = paths, list[str]()
        self.ended: list[tuple[str, Answer]] = []
        self.hooks = Hooks(loop, paths, self.requests.append, lambda *end: self.ended.append(end))

    def has(self, point: str, *names: str) -> None:
        folder = Path(self.paths.lib, "hooks.d", point)
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()

    def answers(self, point: str, line: str, output: bytes = b"") -> None:
        """As the launcher writes it."""
        new = Path(self.paths.boot, "hook.new")
        new.write_bytes(line.encode() + b"\n" + output)
        new.rename(Path(self.paths.boot, f"hook.{point}"))
        self.hooks.look()


@pytest.fixture
def owner(loop: Loop, tmp_path: Path) -> Owner:
    paths = Paths(str(tmp_path))
    for folder in (paths.boot, paths.etc):
        Path(folder).mkdir(parents=True)
    return Owner(loop, paths)


@pytest.mark.parametrize("folder", [False, True])
def test_without_hooks_nobody_is_asked_and_the_answer_is_go_on(owner: Owner, spin: Spin, folder: bool) -> None:
    if folder:
        owner.has("pre-swap")
    owner.hooks.ask("pre-swap", A, 1)
    assert not owner.ended, "never before the caller has returned"
    spin("the answer", lambda: owner.ended)
    assert (owner.ended, owner.requests) == ([("pre-swap", Answer(A, 1, 0, "-", ""))], [])


def test_the_launcher_is_asked_and_its_file_is_the_answer_once(owner: Owner) -> None:
    owner.has("pre-swap", "10-check")
    owner.answers("pre-swap", f"{A} 1 0 -")  # of an earlier time
    owner.hooks.ask("pre-swap", A, 1)
    assert owner.requests == [f"hook pre-swap {A} 1"]
    owner.hooks.look()
    owner.answers("pre-swap", f"{B} 1 0 -")
    owner.answers("pre-swap", f"{A} 2 0 -")
    owner.answers("pre-swap", "nonsense")
    owner.answers("pre-download", f"{A} 1 0 -")
    assert (owner.ended, owner.hooks.waiting) == ([], True)
    owner.answers("pre-swap", f"{A} 1 21 10-check", b"the window is closed\n")
    owner.answers("pre-swap", f"{A} 1 0 -")
    assert owner.ended == [("pre-swap", Answer(A, 1, 21, "10-check", "the window is closed"))]
    assert not owner.hooks.waiting


def test_the_change_of_boot_wakes_the_agent_up_for_it(owner: Owner, loop: Loop, spin: Spin) -> None:
    """No timer looks for the answer: the kernel tells."""
    import signal

    owner.has("pre-swap", "10-check")
    loop.on_signal(signal.SIGIO, owner.hooks.look)
    watched = Boot(owner.paths.app_dir, owner.paths.run_app).watch()
    owner.hooks.ask("pre-swap", A, 1)
    new = Path(owner.paths.boot, "hook.new")
    new.write_text(f"{A} 1 0 -\n")
    new.rename(Path(owner.paths.boot, "hook.pre-swap"))
    spin("the answer", lambda: owner.ended)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    assert watched is not None
    os.close(watched)


def test_a_launcher_that_is_away_is_not_waited_for_for_ever(
    owner: Owner, spin: Spin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MARGIN_S", 0.1)
    Path(owner.paths.launcher_conf).write_text("trial_deadline_s=60\nhook_timeout_s=0\n")
    owner.has("pre-swap", "10-check", "20-more")
    owner.hooks.ask("pre-swap", A, 1)
    spin("the end of patience", lambda: owner.ended)
    assert owner.ended == [("pre-swap", Answer(A, 1, -1, "-", ""))]
    owner.answers("pre-swap", f"{A} 1 0 -")
    assert len(owner.ended) == 1


def test_what_is_forgotten_is_not_answered(owner: Owner, loop: Loop, spin: Spin) -> None:
    owner.hooks.ask("pre-swap", A, 1)
    owner.hooks.forget()
    owner.has("pre-download", "10-check")
    owner.hooks.ask("pre-download", A, 1)
    owner.hooks.forget()
    owner.answers("pre-download", f"{A} 1 0 -")
    later: list[int] = []
    loop.soon(lambda: later.append(1))
    spin("a turn", lambda: later)
    assert owner.ended == []


@given(st.binary(max_size=200))
def test_no_bytes_of_a_script_make_the_reader_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "hook.pre-swap").write_bytes(data)
    answer = read(str(folder), "pre-swap")
    assert answer is None or answer.slot in ("", data[:32].decode("latin-1"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        A,
        f"{A} 1",
        f"{A} 1 x",
        f"{A} x 1 -",
        f"{A} -1 1 -",
        f"{A[:31]} 1 0 -",
        f"{A[:31]}G 1 0 -",
        f"{A} \u0661 0 -",
    ],
)
def test_what_is_no_answer_is_none(owner: Owner, line: str) -> None:
    owner.answers("revert", line)
    assert read(owner.paths.boot, "revert") is None


def test_the_output_is_cut_and_a_link_or_a_pipe_is_not_followed(owner: Owner) -> None:
    owner.answers("revert", "- 3 1 10 odd name", b"x" * 5000)
    answer = read(owner.paths.boot, "revert")
    assert answer is not None
    assert (answer.slot, answer.name, len(answer.output)) == ("", "10 odd name", 2048)
    Path(owner.paths.boot, "hook.commit").symlink_to("hook.revert")
    assert read(owner.paths.boot, "commit") is None
    os.mkfifo(Path(owner.paths.boot, "hook.post-swap"))
    assert read(owner.paths.boot, "post-swap") is None


def test_what_the_launcher_ran_by_itself_is_news_once_and_only_where_there_are_hooks(owner: Owner) -> None:
    owner.answers("commit", f"{A} 1 0 -")
    owner.has("revert", "10-restore")
    assert owner.hooks.news() == []
    owner.answers("revert", f"{B} 1 1 10-restore", b"no\nbackup \x1b[2J")
    assert owner.hooks.news() == [("revert", Answer(B, 1, 1, "10-restore", "no\nbackup \x1b[2J"))]
    assert owner.hooks.news() == []


def test_an_outcome_is_one_event_in_the_life_of_a_device() -> None:
    sent: list[bytes] = []

    def send(_kind: str, payload: bytes, _expiry_s: int | None) -> bool:
        sent.append(payload)
        return True

    reports = Reports(Ledger(boot=3), send, rhythm("wired"), heard=True)
    no = Answer(B, 1, 1, "10-restore\u202e", "no\nbackup \x1b[2J")
    reports.hook("revert", no)
    reports = Reports(reports.ledger._replace(boot=4), send, rhythm("wired"), heard=True)  # the agent starts again
    reports.hook("revert", no)
    reports.hook("revert", no._replace(status=0))
    reports.hook("commit", no._replace(status=0, name="-"))
    reports.flush()
    events = [messages.decode("event", payload) for payload in sent]
    assert all(isinstance(event, messages.Event) for event in events)
    seen = [(event.kind, event.cause, event.data["point"], event.data["status"]) for event in events]  # type: ignore[union-attr]
    assert seen == [("hook", "hook", "revert", 1), ("hook", "", "revert", 0), ("hook", "", "commit", 0)]
    assert events[0].detail == "no backup  [2J"  # type: ignore[union-attr]
