"""Owns passing a device's log on to whoever reads it now: in memory, bounded, and nothing of it is kept.

    GET /devices/ID/logs ── opens ──► Relay ◄── ingest ◄── up/logs ◄── the device, asked by the command `logs`

A message that nobody waits for is dropped: the broker may bring one late, and a device may say anything. Only in the
server's one event loop."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from beamfleet_server.errors import ServerError

MOST: Final = 100
MOST_OF_DEVICE: Final = 4
"""An agent serves so many at once."""
MOST_WAITING: Final = 50
"""Messages that a reader may be behind."""

Message = Mapping[str, Any]


class Reader:
    """One who reads; `missed` counts messages that he was too slow for."""

    def __init__(self, device: str, word: str) -> None:
        self.device, self.id = device, word
        self.messages: asyncio.Queue[Message] = asyncio.Queue(MOST_WAITING)
        self.missed = 0


class Relay:
    """Who reads the logs of which devices."""

    def __init__(self) -> None:
        self._readers: dict[tuple[str, str], Reader] = {}

    def open(self, device: str, word: str) -> Reader:
        """A reader of what the device sends under the id `word`; error `stream.full`."""
        if len(self._readers) >= MOST or sum(name == device for name, _ in self._readers) >= MOST_OF_DEVICE:
            what = f"{MOST_OF_DEVICE} read the log of {device} already, or {MOST} read logs"
            raise ServerError("stream.full", what, "end one of them")
        reader = self._readers[device, word] = Reader(device, word)
        return reader

    def close(self, reader: Reader) -> None:
        """He reads no more."""
        self._readers.pop((reader.device, reader.id), None)

    def take(self, device: str, message: Message) -> None:
        """What a device has sent; dropped if nobody waits for it."""
        reader = self._readers.get((device, str(message["id"])))
        if reader is None:
            return
        if reader.messages.full():
            reader.missed += len(reader.messages.get_nowait()["lines"])
        reader.messages.put_nowait(message)
