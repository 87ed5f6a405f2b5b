"""What the server shows of the health of one device, report by report: the suite counts in reports, not in seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.rollout.simulated import Api
from tests.support.fleet import Device, FleetError, wait_for

LOOK_S = 0.2
PATIENCE_S = 90
"""For what comes as surely as the next report; only a broken fleet needs longer."""


@dataclass(frozen=True, slots=True)
class Report:
    """The newest word on a device. time: when it was sampled, seconds by the device's clock; reasons: check -> (level,
    detail)."""

    time: float
    verdict: str
    reasons: dict[str, tuple[str, str]]
    sections: dict[str, Any]

    @property
    def beam(self) -> dict[str, Any]:
        """What the VM said."""
        found: dict[str, Any] = self.sections["beam"]
        return found


Look = Callable[[Report], Any]


class Chart:
    """The health of one device, as the operators' API shows it."""

    def __init__(self, api: Api, device: Device) -> None:
        self._api, self.device = api, device

    def row(self) -> dict[str, Any]:
        """All that the server shows of the device."""
        found: dict[str, Any] = self._api.get(f"/devices/{self.device.name}")
        return found

    def newest(self) -> Report | None:
        """The newest report; None before the first."""
        health = self.row()["health"]
        if not health or not health["time"]:
            return None
        reasons = {reason["check"]: (reason["level"], reason["detail"]) for reason in health["reasons"]}
        return Report(seconds(health["time"]), health["verdict"], reasons, health["sections"])

    def until(self, what: str, look: Look, deadline_s: float = PATIENCE_S) -> Report:
        """The first report that fits, however many it takes."""
        seen: list[Report] = []

        def fits() -> Report | None:
            report = self.newest()
            if report is None:
                return None
            seen[:] = [report]
            return report if look(report) else None

        try:
            return wait_for(f"{self.device.name}: {what}", fits, deadline_s=deadline_s, every_s=LOOK_S)
        except FleetError as error:
            raise FleetError(f"{error}\nlast: {seen}\n{self.device.console(10)}") from None

    def within(self, reports: int, what: str, look: Look, *, since: float) -> Report:
        """The first report that fits, which is one of the first so many that were sampled after `since`."""
        came: dict[float, Report] = {}
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            report = self.newest()
            if report is not None and report.time > since:
                came[report.time] = report
                if look(report):
                    return report
                assert len(came) < reports, f"{self.device.name}: {what} was not in the first {reports}: {came}"
            time.sleep(LOOK_S)
        raise FleetError(f"{self.device.name}: {what} was in none of {came}\n{self.device.console(20)}")


def seconds(text: str) -> float:
    """A time of the API as seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()
