"""The loop: timers, signals and descriptors in one thread."""

import os
import signal
from collections.abc import Callable

from beamfleet_agent.loop import READ, Loop

Spin = Callable[[str, Callable[[], object]], None]


def test_timers_come_in_order_and_once(loop: Loop, spin: Spin) -> None:
    heard: list[str] = []
    loop.after("late", 0.03, lambda: heard.append("late"))
    loop.after("early", 0.01, lambda: heard.append("early"))
    loop.after("dropped", 0.005, lambda: heard.append("dropped"))
    assert loop.cancel("dropped")
    assert not loop.cancel("dropped")
    spin("both", lambda: len(heard) == 2)
    assert heard == ["early", "late"]
    assert not loop.pending("late")


def test_a_timer_of_the_same_name_replaces_the_first(loop: Loop, spin: Spin) -> None:
    heard: list[int] = []
    loop.after("same", 0.01, lambda: heard.append(1))
    loop.after("same", 0.02, lambda: heard.append(2))
    spin("one", lambda: heard)
    loop.after("end", 0.03, lambda: heard.append(3))
    spin("the end", lambda: heard[-1] == 3)
    assert heard == [2, 3]


def test_a_timer_may_set_itself_again(loop: Loop, spin: Spin) -> None:
    heard: list[float] = []

    def tick() -> None:
        heard.append(loop.now())
        loop.after("tick", 0.005, tick)

    tick()
    spin("five", lambda: len(heard) == 5)


def test_signals_arrive_in_the_loop(loop: Loop, spin: Spin) -> None:
    heard: list[str] = []
    before = signal.getsignal(signal.SIGUSR1)
    loop.on_signal(signal.SIGUSR1, lambda: heard.append("told"))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == []
    spin("the signal", lambda: heard)
    signal.signal(signal.SIGUSR1, before)


def test_what_is_to_be_done_soon_is_done_without_waiting(loop: Loop, spin: Spin) -> None:
    heard: list[str] = []
    loop.soon(lambda: loop.soon(lambda: heard.append("nested")))
    spin("it", lambda: heard)


def test_a_descriptor_that_an_earlier_callback_closed_is_not_served(loop: Loop, spin: Spin) -> None:
    heard: list[int] = []
    pipes = [os.pipe() for _ in range(2)]

    def serve(number: int) -> None:
        heard.append(number)
        for reader, _ in pipes:
            loop.unwatch(reader)

    for number, (reader, writer) in enumerate(pipes):
        loop.watch(reader, READ, lambda _, number=number: serve(number))  # type: ignore[misc]
        os.write(writer, b"x")
    spin("one of them", lambda: heard)
    assert len(heard) == 1
    for reader, writer in pipes:
        os.close(reader)
        os.close(writer)


def test_run_returns_when_it_is_stopped(loop: Loop) -> None:
    loop.after("stop", 0.01, loop.stop)
    loop.run()
