"""Owns the JSON that a webhook sends: closed, and numbered by `v`. Pure.

    {"v": 1, "type": "rollout.halted", "timestamp": TIME, "event": EVENT, "rollout": ROLLOUT or null}

EVENT is as in `GET /events`, but for the log lines of a crash; ROLLOUT is how the rollout stood when the event was put
into the outbox."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from beamfleet_server.clock import rfc3339
from beamfleet_server.store.deliveries import Message
from beamfleet_server.store.events import Event
from beamfleet_server.store.rollouts import RolloutFacts

VERSION = 1
LONGEST_DETAIL = 4000


def composed(webhook: int, event: Event, rollout: RolloutFacts | None) -> Message:
    """The message about an event. Its id is the same however often it is made."""
    told = {
        "id": event.id,
        "time": rfc3339(event.time),
        "device": event.device,
        "kind": event.kind,
        "cause": event.cause,
        "detail": event.detail[:LONGEST_DETAIL],
        "rollout": event.rollout,
        "data": _without_log(event.data),
    }
    summary = None
    if rollout is not None:
        summary = {
            "id": rollout.id,
            "kind": rollout.kind,
            "product": rollout.product,
            "version": rollout.version,
            "state": str(rollout.state),
            "phase": rollout.phase_name,
            "reason": rollout.reason,
            "note": rollout.note,
            "created": rfc3339(rollout.created),
            "finished": rfc3339(rollout.finished),
            "counts": {str(state): count for state, count in rollout.counts.items()},
        }
    type_ = f"{event.kind}.{event.cause}" if event.cause else event.kind
    key = f"{webhook} {event.id} {event.time} {event.device} {event.kind} {event.cause}"
    return _message(key, type_, told["time"], told, summary)


def _without_log(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of an event without the lines that a crash left behind: a release's words stay in the house."""
    kept = dict(data)
    if isinstance(evidence := kept.get("evidence"), Mapping):
        kept["evidence"] = {name: value for name, value in evidence.items() if name != "log"}
    return kept


def test_of(webhook: int, key: str, now: int) -> Message:
    """A message that says nothing but that it arrives."""
    event = {"id": 0, "time": rfc3339(now), "device": None, "kind": "webhook", "cause": "test"}
    event |= {"detail": "somebody asked for a test", "rollout": None, "data": {"webhook": webhook}}
    return _message(key, "webhook.test", event["time"], event, None)


def _message(key: str, type_: str, time: Any, event: Mapping[str, Any], rollout: Mapping[str, Any] | None) -> Message:
    body = {"v": VERSION, "type": type_, "timestamp": time, "event": event, "rollout": rollout}
    identity = "msg_" + hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:32]
    return Message(identity, type_, json.dumps(body, separators=(",", ":")))
