"""Frames of WebSocket: what goes in comes out, in whatever pieces it travels, and nothing that breaks a rule."""

import pytest
from beamfleet_bundles.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    MAX_FRAME,
    PING,
    Frames,
    accept,
    frame,
    is_key,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st

MASK = b"\x01\x80\xff\x00"


@given(st.lists(st.binary(max_size=70_000 // 8), max_size=4), st.booleans(), st.integers(1, 5_000))
def test_a_stream_arrives_whole_in_whatever_pieces(payloads: list[bytes], masked: bool, piece: int) -> None:
    sent = b"".join(frame(BINARY, payload, MASK if masked else b"") for payload in payloads)
    frames = Frames(masked=masked)
    came = [one for start in range(0, len(sent), piece) for one in frames.feed(sent[start : start + piece])]
    assert came == [(BINARY, payload) for payload in payloads]


def test_the_largest_frame_and_each_way_to_say_its_length() -> None:
    for size in (0, 125, 126, 65_535, MAX_FRAME):
        assert Frames(masked=False).feed(frame(BINARY, b"x" * size)) == [(BINARY, b"x" * size)]


def test_a_message_in_pieces_with_a_ping_between_them_is_a_stream() -> None:
    sent = b"\x02\x01a" + frame(PING, b"?") + b"\x00\x01b" + b"\x80\x01c"
    assert Frames(masked=False).feed(sent) == [(BINARY, b"a"), (PING, b"?"), (BINARY, b"b"), (BINARY, b"c")]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\x81\x01a", "no kind that was agreed"),  # text
        (b"\xc2\x01a", "no kind that was agreed"),  # an extension
        (b"\x83\x00", "no kind that was agreed"),
        (frame(BINARY, b"a", MASK), "masked as it must not be"),
        (b"\x82\x7f" + (MAX_FRAME + 1).to_bytes(8, "big"), "too large"),
        (b"\x82\x7f" + b"\xff" * 8, "too large"),
        (b"\x88\x7e\x00\xff", "control frame"),
        (b"\x09\x00", "control frame"),
        (frame(CONTINUATION, b"a"), "out of turn"),
        (b"\x02\x01a" + frame(BINARY, b"b"), "out of turn"),
    ],
)
def test_what_breaks_a_rule_is_refused(sent: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Frames(masked=False).feed(sent)


def test_a_client_that_does_not_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="masked as it must not be"):
        Frames(masked=True).feed(frame(CLOSE, b""))


@given(st.binary(max_size=200), st.booleans())
def test_anything_at_all_is_frames_or_refused(data: bytes, masked: bool) -> None:
    try:
        found = Frames(masked=masked).feed(data)
    except ValueError:
        return
    assert sum(len(payload) for _, payload in found) <= len(data)


def test_the_key_of_a_request_is_answered_as_the_standard_says() -> None:
    assert accept("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert is_key("dGhlIHNhbXBsZSBub25jZQ==")
    assert not any(
        is_key(word) for word in ("", "dGhlIHNhbXBsZSBub25jZQ", "x" * 24, "dGhlIHNhbXBsZSBub25jZQ= ", "é" * 24)
    )
