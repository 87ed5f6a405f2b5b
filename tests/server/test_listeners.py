"""What listens hands on connections that send at once."""

import asyncio
import socket

import pytest
from beamfleet_server.listeners import bind


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_short_answer_does_not_wait_for_the_packet_before_it(host: str) -> None:
    async def accepted() -> int:
        option = asyncio.get_running_loop().create_future()

        async def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            option.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind("operators", host, 0)
        async with await asyncio.start_server(met, sock=listener):
            _, writer = await asyncio.open_connection(host, listener.getsockname()[1])
            found: int = await asyncio.wait_for(option, 10)
            writer.close()
        return found

    assert asyncio.run(accepted())
