"""Owns how rollouts are told: what the store knows of them, in the shapes of the API. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from beamfleet_server.api.rollout_schemas import (
    Change,
    Excluded,
    Member,
    PhaseFacts,
    PlannedBundle,
    PlannedPhase,
    Preview,
    Reason,
    ZoneWindow,
)
from beamfleet_server.clock import rfc3339
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.states import Progress, State
from beamfleet_server.store.preview import Preview as KnownPreview
from beamfleet_server.store.rollouts import Change as KnownChange
from beamfleet_server.store.rollouts import MemberFacts, RolloutFacts

DONE, CURRENT, AHEAD = "done", "current", "ahead"


def summary(facts: RolloutFacts) -> dict[str, Any]:
    """The fields of `RolloutSummary`."""
    return {
        "id": facts.id,
        "kind": facts.kind,
        "of": facts.of_id,
        "product": facts.product,
        "version": facts.version,
        "selector": facts.selector,
        "canary": facts.canary,
        "note": facts.note,
        "by": facts.by,
        "priority": facts.priority,
        "state": facts.state,
        "phase": facts.phase_name,
        "gate": facts.gate,
        "reason": facts.reason,
        "created": rfc3339(facts.created),
        "expires": rfc3339(facts.expires),
        "finished": rfc3339(facts.finished),
        "counts": dict(facts.counts),
    }


def phases(facts: RolloutFacts, tally: Mapping[int | None, Mapping[str, int]]) -> list[PhaseFacts]:
    """The phases with their devices; `tally`: the number of them by phase and state."""
    plan = Plan.parse(facts.plan)
    gone = facts.counts[State.SKIPPED] + facts.counts[State.SUPERSEDED]
    counting = sum(facts.counts.values()) - gone
    return [
        PhaseFacts(
            **_planned(plan, index, counting),
            max_parallel=plan.parallel(index) or 0,
            state=_standing(facts, index),
            counts={str(state): tally.get(index, {}).get(str(state), 0) for state in State},
        )
        for index in range(len(plan.phases))
    ]


def soak_until(facts: RolloutFacts, now: int) -> str | None:
    """When the phase that is proven may end; None if it does not soak."""
    if facts.state != Progress.RUNNING or facts.proved_since is None:
        return None
    until = facts.proved_since + Plan.parse(facts.plan).phases[facts.phase].soak
    return rfc3339(until) if until > now else None


def reasons(found: Sequence[tuple[str, str, int, str]]) -> list[Reason]:
    """(state, reason, count, example) as they travel."""
    return [Reason(state=state, reason=reason, count=count, example=example) for state, reason, count, example in found]


def member(facts: RolloutFacts, device: MemberFacts) -> Member:
    """A member as it travels."""
    names = [phase["name"] for phase in facts.plan["phases"]]
    progress = device.progress or {}
    return Member(
        id=device.device,
        phase="" if device.phase is None else names[device.phase],
        canary=device.phase == 0,
        state=device.state,
        reason=device.reason,
        detail=device.detail,
        evidence=device.evidence,
        tries=device.tries,
        next_try=rfc3339(device.next_try or None),
        deadline=rfc3339(device.deadline),
        before=device.before,
        done=progress.get("done", 0),
        total=progress.get("total", 0),
        updated=rfc3339(device.updated),
    )


def preview(plan: Plan, seen: KnownPreview) -> Preview:
    """What a rollout would do, as it travels."""
    return Preview(
        product=plan.product,
        version=plan.version,
        devices=seen.devices,
        already=seen.already,
        bytes=seen.bytes,
        phases=[PlannedPhase(**_planned(plan, index, seen.devices)) for index in range(len(plan.phases))],
        bundles=[
            PlannedBundle(
                target=each.target,
                version=each.version,
                manifest=each.manifest,
                devices=each.devices,
                size=each.pack_size,
                bytes=each.devices * each.pack_size,
            )
            for each in seen.bundles
        ],
        excluded=[
            Excluded(reason=each.reason, count=each.devices, examples=list(each.examples)) for each in seen.excluded
        ],
        windows=[
            ZoneWindow(zone=each.zone, devices=each.devices, open=each.open, next=rfc3339(each.next))
            for each in seen.zones
        ],
        superseded=list(seen.superseded),
    )


def change(found: KnownChange) -> Change:
    """What a rollout changes on some devices, as it travels."""
    return Change(
        target=found.target,
        before=found.before,
        before_manifest=found.before_manifest,
        version=found.version,
        manifest=found.manifest,
        bytes=found.pack_size,
        devices=found.devices,
        examples=list(found.examples),
    )


def _planned(plan: Plan, index: int, counting: int) -> dict[str, Any]:
    phase = plan.phases[index]
    before = plan.phases[index - 1].devices.up(counting) if index else 0
    size = max(0, phase.devices.up(counting) - before)
    return {
        "name": phase.name,
        "size": size,
        "soak_s": phase.soak,
        "gate": phase.gate,
        "tolerated": phase.failures.down(size),
    }


def _standing(facts: RolloutFacts, index: int) -> str:
    if index < facts.phase or facts.state == Progress.COMPLETED:
        return DONE
    return CURRENT if index == facts.phase else AHEAD
