"""Owns what will be done to a target, as people read it before it is done. Pure; holds no secret."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beamfleet_server.flash.facts import TargetFacts
from beamfleet_server.flash.packages import Package


@dataclass(frozen=True, slots=True)
class Plan:
    """One target, and the steps in their order."""

    target: str
    kind: str
    device: str
    facts: TargetFacts
    package: Package | None
    steps: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For `-o json`."""
        return {
            "target": self.target,
            "kind": self.kind,
            "device": self.device,
            "facts": self.facts.document(),
            "package": self.package.path.name if self.package else "",
            "steps": list(self.steps),
        }

    def lines(self) -> list[str]:
        """For people."""
        head = [f"{self.target}: {what}" for what in (_system(self.facts), _slots(self.facts)) if what]
        return [*head, *(f"{number}. {step}" for number, step in enumerate(self.steps, 1))]


def steps(
    facts: TargetFacts,
    words: Mapping[str, Any],
    *,
    intentions: Sequence[str] = (),
    package: Package | None = None,
    token: str = "",
    bundle: Path | None = None,
    at_first_boot: bool = False,
) -> tuple[str, ...]:
    """What flashing does. `token` says in words how the device gets its identity."""
    found = list(intentions)
    if package:
        what = f"bring beamfleet-agent {facts.agent_version} to" if facts.agent_version else "install"
        found.append(f"{what} {package.path.name}")
    who = words["device"] or f"ids from {words['id_from']}"
    if words.get("id_prefix"):
        who += f" that begin with {words['id_prefix']}"
    found.append(f"lay down {who}" + (", at its first boot" if at_first_boot else "") + (f"; {token}" if token else ""))
    if words["env"]:
        found.append(f"app.env: {', '.join(sorted(words['env']))}")
    found += [f"lay down {file['path']} ({file['mode']})" for file in words.get("files", ())]
    if wifi := words.get("wifi"):
        found.append(f"join the wireless network {wifi['ssid']}")
    if apn := words.get("apn"):
        found.append(f"use the access point {apn['apn']}")
    if proxy := words.get("proxy"):
        found.append(f"reach the server through {proxy.rpartition('@')[2].removeprefix('http://')}")
    if words.get("transport"):
        found.append("speak MQTT over WebSocket")
    if bundle:
        found.append(f"lay down {bundle.name} to run before it sees a network")
    if facts.running:
        found.append("start launcher and agent")
    return tuple(found)


def removal(facts: TargetFacts, wipe: bool) -> tuple[str, ...]:
    """What taking the agent away does."""
    gone = ["stop launcher, agent and release"] if facts.running else []
    gone.append(f"remove beamfleet-agent {facts.agent_version}".rstrip())
    if wipe:
        gone.append("wipe identity, secrets, settings, releases and data")
    return tuple(gone)


def _system(facts: TargetFacts) -> str:
    python = f"Python {'.'.join(map(str, facts.python))}" if facts.python else ""
    return ", ".join(filter(None, (facts.os, facts.arch, facts.libc, python, facts.init)))


def _slots(facts: TargetFacts) -> str:
    free = f"{facts.free_bytes / 1e6:.0f} MB free" if facts.free_bytes is not None else ""
    return ", ".join(filter(None, (facts.filesystem.kind, free)))
