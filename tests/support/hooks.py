"""A server with webhooks to receivers of a test, and a hand on its API."""

from pathlib import Path
from typing import Any

from tests.support.receiver import Receiver
from tests.support.server import DEADLINE_S, Server, eventually

FAST = {"webhook_networks": "127.0.0.0/8", "webhook_retry_s": 1, "webhook_timeout_s": 2}
Item = dict[str, Any]


class Hooks:
    """A server with webhooks to receivers of the test."""

    def __init__(self, server: Server, work: Path) -> None:
        self.server, self.work = server, work
        self._devices = 0

    def create(self, receiver: Receiver, *kinds: str, **more: object) -> Item:
        made: Item = self.server.post("/webhooks", {"url": receiver.url, "kinds": list(kinds)} | more)
        return made

    def happen(self, count: int = 1) -> list[str]:
        """So many devices enrol; their names."""
        names = []
        for _ in range(count):
            self._devices += 1
            names.append(f"hook-{self._devices}")
            self.server.enrol(names[-1], self.work)
        return names

    def ask(self, hook: Item, verb: str, **body: object) -> Any:
        return self.server.post(f"/webhooks/{hook['id']}/{verb}", body, 200)

    def show(self, hook: Item) -> Item:
        shown: Item = self.server.get(f"/webhooks/{hook['id']}")
        return shown

    def deliveries(self, hook: Item, query: str = "") -> list[Item]:
        found: list[Item] = self.server.get(f"/webhooks/{hook['id']}/deliveries{query}")["items"]
        return found

    def delivered(self, hook: Item, count: int = 1, deadline_s: float = DEADLINE_S) -> list[Item]:
        """Its deliveries, when so many were taken."""
        return eventually(
            f"{count} deliveries",
            lambda: [found] if len(found := self.deliveries(hook, "?state=delivered")) >= count else None,
            deadline_s,
        )[0]
