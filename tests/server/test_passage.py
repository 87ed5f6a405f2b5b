"""What a device may do to the passage that leads it to the broker."""

import asyncio

from beamfleet_bundles import websocket
from beamfleet_server.broker.passage import MOST_OF_DEVICE, Passages

PING = websocket.frame(websocket.PING, b"?" * 100, b"\x01\x80\xff\x00")


def test_a_device_has_a_few_passages_and_fills_no_memory_with_answers_that_it_does_not_read() -> None:
    async def device() -> None:
        others: list[asyncio.StreamWriter] = []
        listener, broker = [
            await asyncio.start_server(lambda _, writer: others.append(writer), "127.0.0.1", 0) for _ in range(2)
        ]
        host, port = broker.sockets[0].getsockname()
        passages = Passages(host, port)
        opened = [await passages.open("gw-1") for _ in range(MOST_OF_DEVICE)]
        assert (passages.full("gw-1"), passages.full("gw-2")) == (True, False)

        near = opened[0].near
        line, _ = await asyncio.get_running_loop().create_connection(
            lambda: near, *listener.sockets[0].getsockname()
        )  # whose other side is not read
        for _ in range(100_000):
            near.data_received(PING)
        assert line.get_write_buffer_size() <= line.get_write_buffer_limits()[1] + websocket.MAX_CONTROL + 2

        for each in opened:
            each.close()
        line.abort()
        assert not passages.full("gw-1")
        for other in others:
            other.transport.abort()
        listener.close()
        broker.close()

    asyncio.run(device())
