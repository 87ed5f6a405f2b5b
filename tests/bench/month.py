"""What a device on a paid line sends and receives in a month in which nothing happens, extrapolated.

Counted are one session from its beginning to its first report, some intervals of it at rest, made short, and one look
at the server's metadata over HTTPS. Owns the extrapolation; the counting is the kernel's.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.meter import Meter
from tests.support.fleet import wait_for
from tests.support.relay import Relay

DAYS = 31
INTERVAL_S = 900
SESSIONS_A_DAY = 1
LOOKS = 7
"""Each week one proof that the newest assignment is known, and an assignment that is signed anew each 15 days."""
QUIET_S = 3.0
"""Nothing has passed for so long: it is over."""
ASSUMED = (
    f"{DAYS} days, an interval of {INTERVAL_S // 60} minutes, {SESSIONS_A_DAY} new session a day, {LOOKS} looks at the "
    "metadata."
)


@dataclass(frozen=True, slots=True)
class Month:
    """Bytes with all headers: of a session's beginning with its first report, of an interval, of a look."""

    session: int
    interval: float
    look: int

    @property
    def bytes(self) -> float:
        """What a month comes to."""
        intervals = DAYS * 86_400 / INTERVAL_S
        return self.session * DAYS * SESSIONS_A_DAY + self.interval * intervals + self.look * LOOKS


def measured(
    meter: Meter, api: Relay, seconds: float, scaled_s: int, *, look: Callable[[], object], again: Callable[[], object]
) -> Month:
    """The bytes of a device whose intervals are `scaled_s` long. look: has it look at the metadata; again: begins a new
    session."""

    def total() -> int:
        return meter.wire.total + api.wire.total

    before, reports = total(), len(meter.published("health"))
    again()
    wait_for("the first report of a session", lambda: len(meter.published("health")) > reports, deadline_s=60)
    time.sleep(min(QUIET_S, scaled_s / 2))
    session = total() - before

    began, before = time.monotonic(), total()
    time.sleep(seconds)
    interval = (total() - before) * scaled_s / (time.monotonic() - began)

    before = total()
    look()
    wait_for("the look at the metadata", lambda: api.wire.connections and quiet(total), deadline_s=60)
    return Month(session, interval, total() - before)


def quiet(total: Callable[[], int]) -> bool:
    """Whether nothing has passed for a while."""
    before = total()
    time.sleep(QUIET_S)
    return total() == before
