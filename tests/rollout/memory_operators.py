"""What people do to the reference: start, pause, resume, approve, abort, undo, retry, pin."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import ENDED, NOT_SWAPPED, OWNING, PINNED, Progress, State

from tests.rollout.memory_rows import Device, Kept

if TYPE_CHECKING:
    from tests.rollout.memory_world import MemoryWorld


def start(world: MemoryWorld, plan: Plan, now: int) -> bool:
    for version in (plan.version, *(step.through for step in plan.steps)):
        release = {each.manifest for each in world.bundles.values() if each.version == version}
        if not release or release & world.quarantine:
            return False
    kept = world.keep(plan, "update", now)
    if not world.join(kept, now):  # so nobody was taken from another one either
        del world.rollouts[kept.id]
        return False
    settle_all(world, now)
    return True


def settle_all(world: MemoryWorld, now: int) -> None:
    """Those from whom it took members first, then the new one."""
    for other in list(world.rollouts.values()):
        world.settle(other, now)


def undo(world: MemoryWorld, kept: Kept, now: int) -> bool:
    ours = [row for row in kept.rows.values() if row.heard and row.member.offered]
    committed = [row for row in ours if row.member.state is State.COMMITTED]
    wanted = [row for row in committed if row.before in world.bundles and row.before != row.member.manifest]
    if not wanted:
        return False
    if kept.facts.progress in OWNING:
        kept.facts = replace(kept.facts, progress=Progress.ABORTED)
    undo = world.keep(kept.plan, "undo", now)
    for row in wanted:
        world.enter(undo, world.devices[row.device], now, row.before)
    settle_all(world, now)
    return True


def act(world: MemoryWorld, word: str, number: int, now: int) -> bool:
    kept = world.rollouts.get(number)
    if kept is None:
        return False
    if word == "undo":
        return undo(world, kept, now)
    facts, progress = kept.facts, kept.facts.progress
    stands = progress in (Progress.RUNNING, Progress.PAUSED, Progress.HALTED)
    release = {each.manifest for each in world.bundles.values() if each.version == kept.plan.version}
    barred = kept.kind == "update" and progress is Progress.HALTED and bool(release & world.quarantine)
    match word:
        case "pause" if progress in (Progress.RUNNING, Progress.PAUSED):
            kept.facts = replace(facts, progress=Progress.PAUSED)
        case "resume" if progress is Progress.RUNNING:
            return True
        case "resume" if stands and now < facts.expires and not barred:
            bad = world.counts(kept, now).all.bad if progress is Progress.HALTED else facts.forgiven
            kept.facts = replace(facts, progress=Progress.RUNNING, forgiven=bad)
        case "approve" if progress in (Progress.RUNNING, Progress.PAUSED) and facts.gate != "":
            kept.facts = replace(facts, gate="approved")
        case "abort" if stands or progress is Progress.ABORTED:
            kept.facts = replace(facts, progress=Progress.ABORTED)
        case "retry" if progress not in ENDED and not barred and retry(world, kept, now):
            if progress is Progress.HALTED:
                bad = world.counts(kept, now).all.bad
                kept.facts = replace(facts, progress=Progress.RUNNING, forgiven=bad)
        case _:
            return False
    world.settle(kept, now)
    return True


def retry(world: MemoryWorld, kept: Kept, now: int) -> int:
    again = [row for row in kept.rows.values() if row.heard and row.member.state in (State.REVERTED, State.FAILED)]
    for row in again:
        row.member = replace(
            row.member, state=State.PENDING, reason="retry", detail="", attempt=row.member.attempt + 1, tries=0,
            next_try=0, evidence=False, deadline=None, updated=now,
        )  # fmt: skip
    return len(again)


def pin(world: MemoryWorld, device: Device, now: int) -> None:
    device.pinned = True
    for kept in world.rollouts.values():
        row = kept.rows.get(device.name)
        if row is not None and row.heard and row.member.state in (State.PENDING, *NOT_SWAPPED):
            if row.member.state in NOT_SWAPPED:
                world.sign(device.name, "", 0)
            row.member = replace(row.member, state=State.SKIPPED, reason=PINNED, deadline=None, updated=now)
