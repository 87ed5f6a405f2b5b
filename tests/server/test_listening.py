"""Silence is measured from when nobody could be heard to when somebody can be again, and told once."""

from beamfleet_server.listening import Hearing, Listening


def test_a_silence_is_told_once_when_it_ends() -> None:
    up = False
    listening = Listening(lambda: up, 100)
    assert [listening.judge(now) for now in (100, 105)] == [Hearing(False, 0)] * 2
    up = True
    assert [listening.judge(now) for now in (110, 125)] == [Hearing(True, 10), Hearing(True, 0)]
    up = False
    assert listening.judge(140) == Hearing(False, 0)
    assert listening.judge(500) == Hearing(False, 0)
    up = True
    assert listening.judge(515) == Hearing(True, 375)


def test_a_clock_that_was_put_back_ends_no_silence_in_the_past() -> None:
    assert Listening(lambda: True, 1000).judge(400) == Hearing(True, 0)
