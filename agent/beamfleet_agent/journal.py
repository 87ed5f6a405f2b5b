"""Owns the journal: one small JSON file with version and checksum that remembers what the agent was about to do.

Written before each act, only when it changed, by temporary file, fsync, rename, fsync of the directory. A missing, torn
or foreign journal is no error: the agent starts from an empty one and rebuilds the rest from boot/state and slots/.
Keys that this version does not know are ignored, keys that are missing have defaults, so older and newer agents read
each other's.

    {"crc32": "8 hex digits of the compact, sorted JSON of content", "content": {...}, "v": 1}
"""

import json
import os
from typing import Any, NamedTuple
from zlib import crc32

from beamfleet_bundles import durable

from beamfleet_agent.errors import AgentError
from beamfleet_agent.probes import Probe
from beamfleet_agent.update_state import PHASES, Release, State, Update

VERSION = 1
MAX_BYTES = 1 << 18


class Ledger(NamedTuple):
    """What the journal remembers beside the update: counters and what the server has not acknowledged yet."""

    boot: int = 0
    """Number of agent starts."""
    starts: int = 0
    """The newest VM start that was reported."""
    outbox: tuple[dict[str, Any], ...] = ()
    """Event payloads, oldest first."""
    dropped: int = 0
    """Events that the outbox had no room for."""
    hooks: tuple[tuple[str, str, int, int], ...] = ()
    """(point, slot, attempt, status) of the newest hooks of each point that were reported."""


class Journal:
    """The journal at `path`; `write` skips the disk when nothing changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._written = b""

    def read(self) -> tuple[State, Ledger] | None:
        """What was written last, or None when there is nothing that can be believed."""
        try:
            with open(self._path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            return None
        remembered = decode(data)
        if remembered is not None:
            self._written = data
        return remembered

    def write(self, state: State, ledger: Ledger) -> bool:
        """Make both durable; False when that is what the file says already. Raises AgentError `agent.journal`."""
        data = encode(state, ledger)
        if data == self._written:
            return False
        try:
            durable.replace(self._path, data, 0o600)
        except OSError as error:
            self._written = b""
            hint = "make room on, or repair, the filesystem; the running release is not touched"
            raise AgentError(
                "agent.journal", f"cannot write {self._path}: {os.strerror(error.errno or 0)}", hint
            ) from error
        self._written = data
        return True


def encode(state: State, ledger: Ledger) -> bytes:
    """The file for these values; always the same bytes for the same values."""
    content = {
        "update": state.update._asdict(),
        "offered": state.offered,
        "accepted": state.accepted,
        "sequence": state.sequence,
        "spent": [list(pair) for pair in state.spent],
        "releases": [release_to(release) for release in state.releases],
        "director": state.director,
        "floor": max((floor for _, floor in state.floors), default=0),  # one for all: what an older agent reads
        "floors": dict(state.floors),
        "done": list(state.done),
        **ledger._asdict(),
    }
    inner = _dump(content)
    return _dump({"v": VERSION, "crc32": f"{crc32(inner.encode()):08x}", "content": content}).encode() + b"\n"


def decode(data: bytes) -> tuple[State, Ledger] | None:
    """The values in these bytes, or None when they are torn, damaged, of another version, or not a journal."""
    try:
        document = json.loads(data)
        content = document["content"]
        if document["v"] != VERSION or document["crc32"] != f"{crc32(_dump(content).encode()):08x}":
            return None
        state = State(
            update=_update(content.get("update", {})),
            offered=str(content.get("offered", "")),
            accepted=str(content.get("accepted", "")),
            sequence=int(content.get("sequence", 0)),
            spent=tuple(_pair(item) for item in content.get("spent", ())),
            releases=tuple(release_from(item) for item in content.get("releases", ())),
            floors=_floors(content),
            director=str(content.get("director", "")),
            done=_pair(content.get("done", ("", 0))),
        )
        ledger = Ledger(
            boot=int(content.get("boot", 0)),
            starts=int(content.get("starts", 0)),
            outbox=tuple(dict(item) for item in content.get("outbox", ())),
            dropped=int(content.get("dropped", 0)),
            hooks=tuple((str(p), str(slot), int(n), int(status)) for p, slot, n, status in content.get("hooks", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return state, ledger


def release_from(item: dict[str, Any]) -> Release:
    """The facts of a release as the journal and the worker spell them; unknown keys are ignored."""
    values = {key: item[key] for key in Release._fields if key in item}
    permanent = tuple(str(name) for name in values.get("permanent", ()))
    probes = tuple(
        Probe(**{key: probe[key] for key in Probe._fields if key in probe}) for probe in values.get("probes", ())
    )
    return Release(**{**values, "permanent": permanent, "probes": probes})


def release_to(release: Release) -> dict[str, Any]:
    """The same, to be spelled."""
    return {**release._asdict(), "probes": [probe._asdict() for probe in release.probes]}


def _update(item: dict[str, Any]) -> Update:
    update = Update(**{key: item[key] for key in Update._fields if key in item})
    return update if update.phase in PHASES else Update()


def _pair(item: Any) -> tuple[str, int]:
    slot, attempt = item
    return str(slot), int(attempt)


def _floors(content: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """By product; the one floor of an older agent holds for every product that it knew."""
    floors = content.get("floors")
    if floors is None:
        known = [*content.get("releases", ()), content.get("update", {})]
        floors = {item["product"]: content["floor"] for item in known if item.get("product") and content.get("floor")}
    return tuple(sorted((str(product), int(floor)) for product, floor in floors.items()))


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
