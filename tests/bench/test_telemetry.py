"""What the benchmark of telemetry says is what went over the wire, and a bound that is not held is said."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.disk import OWNED_BY_THE_RELEASE, Written, own_disk
from tests.bench.meter import Packet, _Half, _opened
from tests.bench.month import Month
from tests.bench.processes import Cost
from tests.bench.telemetry import Outcome, Processor
from tests.support.fleet import wait_for
from tests.support.relay import Relay

TOPIC = b"beamfleet/v1/gw-1/main/up/health"
CONTENT = b'{"v":1,"verdict":"healthy"}' + b" " * 200
BODY = len(TOPIC).to_bytes(2, "big") + TOPIC + b"\x00\x07" + b"\x05\x02\x00\x00\x00\x78" + CONTENT
PUBLISH = bytes([0x32, len(BODY) % 128 | 128, len(BODY) // 128]) + BODY
PUBACK = bytes([0x40, 2, 0, 7])


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_a_stream_is_cut_into_packets_wherever_it_was_torn(step: int) -> None:
    stream, half = PUBLISH + PUBACK + PUBLISH, _Half()
    found = [cut for at in range(0, len(stream), step) for cut in half.take(stream[at : at + step], 0)]
    assert [cut.whole for cut in found] == [PUBLISH, PUBACK, PUBLISH]


def test_a_message_is_known_by_its_topic_and_weighed_without_what_carries_it() -> None:
    assert _opened(PUBLISH) == ("publish health", CONTENT)
    assert _opened(PUBACK) == ("puback", b"")


def test_the_bytes_of_a_record_count_for_the_packet_that_it_completes() -> None:
    half = _Half()
    assert half.take(PUBLISH[:10], 22) == []
    first, second = half.take(PUBLISH[10:] + PUBACK, 22)
    assert (first.overhead, second.overhead) == (44, 0)


@pytest.fixture
def far() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_relay_counts_what_it_passes_and_a_silent_one_passes_nothing(far: socket.socket) -> None:
    with Relay(far.getsockname()[1]) as relay, socket.create_connection(("127.0.0.1", relay.port)) as near:
        behind, _ = far.accept()
        with behind:
            near.sendall(b"x" * 1000)
            assert behind.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
            behind.sendall(b"y" * 10)
            assert near.recv(100) == b"y" * 10
            wire = relay.wire
            assert (wire.connections, wire.up, wire.down) == (1, 1000, 10)
            assert wire.total >= wire.content + 4 * 52
            relay.silent = True
            near.sendall(b"z")
            behind.settimeout(0.3)
            with pytest.raises(TimeoutError):
                behind.recv(1)
            relay.silent = False
        wait_for("the end to be passed on", lambda: near.recv(1) == b"", deadline_s=10)


def test_what_reaches_a_disk_is_counted_and_looking_is_free(tmp_path: Path) -> None:
    try:
        with own_disk(tmp_path / "device", tmp_path / "image") as disk:
            (tmp_path / "device/folder").mkdir()
            (tmp_path / "device" / OWNED_BY_THE_RELEASE).mkdir(parents=True)
            (tmp_path / "device/folder/file").write_text("x")
            disk.begin([os.getpid()])
            (tmp_path / "device/var/run/state").write_text("x" * 5000)
            assert disk.written() == NOTHING
            disk.begin([os.getpid()])
            (tmp_path / "device/folder/file").write_text("y" * 5000)
            (tmp_path / "device" / OWNED_BY_THE_RELEASE / "count").write_text("1")
            written = disk.written()
            assert written.disk >= 8192
            assert written.files == ("folder/file",)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")


def test_a_month_is_its_sessions_its_intervals_and_its_looks() -> None:
    assert Month(session=6000, interval=500.0, look=20_000).bytes == 6000 * 31 + 500 * 2976 + 20_000 * 7


NOTHING = Written(0, 0, ())


def outcome(written: Written | None = NOTHING) -> Outcome:
    def packet(name: str, size: int) -> Packet:
        return Packet(True, name, b" " * (size - 80), size - 22, size, 0.0)

    return Outcome(
        [packet("publish health", 500), packet("publish health", 900)],
        [packet("puback", 100)],
        {100: Processor(0.2, 0.1), 10_000: Processor(0.2, 0.4)},
        written, "", Month(6000, 500.0, 20_000), Cost(22.0, 10.0, 1, 3.0),
    )  # fmt: skip


def test_the_largest_report_and_the_dearest_case_count() -> None:
    figures = outcome().figures()
    assert (figures["report_wire_bytes"], figures["report_payload_bytes"]) == (900, 820)
    assert figures["sampling_cpu_percent"] == pytest.approx(0.6)
    assert outcome().missed() == []


def test_a_bound_that_is_not_held_is_named_and_so_is_what_was_not_measured() -> None:
    assert outcome(Written(4096, 0, ("./boot/state",))).missed() == ["flash_bytes_online"]
    assert "./boot/state" in outcome(Written(4096, 0, ("./boot/state",))).table()
    unmeasured = outcome(None)
    unmeasured.why_not = "only root may mount"
    assert unmeasured.missed() == ["flash_bytes_online"]
    assert "not measured: only root may mount" in unmeasured.table()
