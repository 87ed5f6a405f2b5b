"""Owns the sign of life to an external watcher: while all is well, each minute a POST to `heartbeat_url`. The watcher
notices when none comes, also when this machine is gone; nothing is said while something is wrong."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import requests
import structlog

EVERY_S = 60.0
TIMEOUT_S = 10.0

_log = structlog.get_logger(__name__)


class Heartbeat:
    """Posts to `url`; `well` says whether all is well. authority: CA certificates of the watcher, beside those of this
    system's if None."""

    def __init__(self, url: str, well: Callable[[], bool], authority: Path | None, every_s: float = EVERY_S) -> None:
        self._url = url
        self._well = well
        self._verify = str(authority) if authority else True
        self._every_s = every_s
        self._failing = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self.beat)
            except Exception:  # noqa: BLE001 (the top of a loop: it logs, and goes on)
                _log.exception("nobody knows whether all is well")
            await asyncio.sleep(self._every_s)

    def beat(self) -> bool:
        """Post once if all is well; whether the watcher has taken it. Trouble with it is logged when it begins."""
        if not self._well():
            return False
        try:
            with requests.post(
                self._url,
                timeout=TIMEOUT_S,
                verify=self._verify,
                allow_redirects=False,
                stream=True,  # what else it says is not read, however long it is
            ) as answer:
                trouble = "" if 200 <= answer.status_code < 300 else f"it answers {answer.status_code}"
        except requests.RequestException as error:
            trouble = type(error).__name__
        if trouble and not self._failing:
            _log.warning("the heartbeat is not taken", detail=trouble)
        self._failing = bool(trouble)
        return not trouble
