"""Owns the judgement over how much a device sends: pass, drop, or cut. Pure; the caller gives the time.

A device may send `per_s` messages a second, and a minute's worth at once. What is above is dropped and not
acknowledged, so that an honest device sends it again later. Whoever stays above for `patience_s`, without a pause in
which half of the allowance comes back, is cut.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto

ALLOWANCE_S = 60
MOST = 100_000
"""Devices that are remembered; the one that was quiet longest goes first."""


class Judgement(Enum):
    """What becomes of a message, and of its sender."""

    PASS = auto()
    DROP = auto()
    CUT = auto()


@dataclass(slots=True)
class _Sender:
    left: float
    at: float
    over_since: float | None = None


class Flooding:
    """How much each device has sent."""

    def __init__(self, per_s: float, patience_s: float) -> None:
        self._per_s = per_s
        self._burst = per_s * ALLOWANCE_S
        self._patience_s = patience_s
        self._senders: OrderedDict[str, _Sender] = OrderedDict()

    def judge(self, device: str, now: float) -> Judgement:
        """A message of `device` came; `now` in seconds of a clock that does not go back."""
        sender = self._senders.setdefault(device, _Sender(self._burst, now))
        self._senders.move_to_end(device)
        if len(self._senders) > MOST:
            self._senders.popitem(last=False)
        sender.left = min(self._burst, sender.left + (now - sender.at) * self._per_s)
        sender.at = now
        if sender.left >= self._burst / 2:
            sender.over_since = None
        if sender.left >= 1:
            sender.left -= 1
            return Judgement.PASS
        if sender.over_since is None:
            sender.over_since = now
        return Judgement.CUT if now - sender.over_since >= self._patience_s else Judgement.DROP

    def forget(self, device: str) -> None:
        """It was cut, and begins anew."""
        self._senders.pop(device, None)
