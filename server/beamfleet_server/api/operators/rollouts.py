"""Owns the routes of rollouts: starting one, and looking at them. `steering` has what people do to one."""

from collections.abc import Mapping
from typing import Annotated, Any

from beamfleet_bundles.names import check_product, check_version
from fastapi import APIRouter, Depends, Query, Response

from beamfleet_server.api import problems, rollout_view
from beamfleet_server.api.authentication import Authentication
from beamfleet_server.api.guard import router as guarded
from beamfleet_server.api.operators.cursors import Cursor, Limit, Number, number
from beamfleet_server.api.rollout_schemas import (
    Changes,
    Member,
    NewRollout,
    Preview,
    Rollout,
    RolloutSummary,
)
from beamfleet_server.api.schemas import Page
from beamfleet_server.clock import Clock
from beamfleet_server.errors import ServerError
from beamfleet_server.fleet.plan import Plan
from beamfleet_server.fleet.selector import Selector
from beamfleet_server.fleet.states import Progress, State
from beamfleet_server.store import Store
from beamfleet_server.store.acts import about
from beamfleet_server.store.operators import Operator

MOST_SHOWN = 500
REASONS = 10
STARTING = (
    "release.unknown",
    "release.quarantined",
    "rollout.no_devices",
    "rollout.no_target",
)
UNKNOWN = problems.told("rollout.unknown")
KINDS = ("update", "undo")

Words = Annotated[str, Query(max_length=500, description="only these; several are parted by commas")]
Word = Annotated[str, Query(max_length=64)]


def router(store: Store, authentication: Authentication, clock: Clock, approval_above: int) -> APIRouter:
    """`/rollouts`. `approval_above`: more devices than that need a second operator; 0: never."""
    routes = guarded("rollouts")
    Admitted = Annotated[Operator, Depends(authentication)]  # noqa: N806 (a type)

    @routes.post(
        "/rollouts",
        status_code=201,
        responses={
            200: {"model": Rollout, "description": "An earlier request with this key has started it"},
            **problems.told(*STARTING, "rollout.no_selector", "rollout.needs_approval"),
        },
    )
    def start(new: NewRollout, response: Response, operator: Admitted) -> Rollout:
        """Roll a release out to devices, phase by phase. A large one may need a second operator: 409
        `rollout.needs_approval` then, and `/approvals` has it. A plan that is none is 422 with a code `plan.*`."""
        plan, now = wished(new), clock()
        about(f"{plan.product} {plan.version}", str(plan.devices) or "all devices")
        if store.approvals.needed(plan, new.key, approval_above):
            asked = store.approvals.ask(plan, new.key, operator.name, now)
            what = f"a rollout to more than {approval_above} devices needs a second operator; it waits as {asked}"
            raise ServerError("rollout.needs_approval", what, f"another operator: beamfleet approval accept {asked}")
        rollout, is_new = store.advancing.start(plan, operator.name, new.key, now)
        if not is_new:
            response.status_code = 200
        return told(store, rollout, now)

    @routes.post("/plans/preview", responses=problems.told(*STARTING, "rollout.no_selector"))
    def preview(new: NewRollout) -> Preview:
        """What the rollout would do: who would get what, when, how many bytes, and who would not. Changes nothing."""
        plan = wished(new)
        about(f"{plan.product} {plan.version}", "only looked")
        return rollout_view.preview(plan, store.advancing.preview(plan, clock()))

    @routes.get("/rollouts", responses=problems.told("request.cursor"))
    def listed(
        product: Word = "",
        version: Word = "",
        state: Words = "",
        kind: Word = "",
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> Page[RolloutSummary]:
        """The rollouts, newest first."""
        rows = store.rollouts.page(
            number(cursor),
            limit + 1,
            product=product,
            version=version,
            states=_among(state, "state", tuple(Progress)),
            kind=_only(kind, "kind", KINDS),
        )
        items = [RolloutSummary(**rollout_view.summary(row)) for row in rows[:limit]]
        return Page(items=items, next=str(items[-1].id) if len(rows) > limit else None)

    @routes.get("/rollouts/{rollout}", responses=UNKNOWN)
    def one(
        rollout: Number, devices: Annotated[int, Query(ge=0, le=MOST_SHOWN, description="most devices")] = MOST_SHOWN
    ) -> Rollout:
        """A rollout with its phases and the most interesting of its devices."""
        return told(store, rollout, clock(), devices)

    @routes.get("/rollouts/{rollout}/devices", responses=UNKNOWN)
    def devices(
        rollout: Number, state: Words = "", phase: Word = "", cursor: Cursor = None, limit: Limit = 100
    ) -> Page[Member]:
        """The devices of a rollout by id; `phase` is a name of the plan's."""
        facts = store.rollouts.find(rollout)
        index = phase_index(facts.plan, phase)
        states = _among(state, "state", tuple(State))
        rows = store.rollouts.members(rollout, states=states, phase=index, after=cursor or "", limit=limit + 1)
        items = [rollout_view.member(facts, row) for row in rows[:limit]]
        return Page(items=items, next=items[-1].id if len(rows) > limit else None)

    @routes.get("/rollouts/{rollout}/changes", responses=UNKNOWN)
    def changes(rollout: Number) -> Changes:
        """What a rollout changes: from which version to which, on how many devices."""
        facts = store.rollouts.find(rollout)
        found = [rollout_view.change(each) for each in store.rollouts.changes(rollout)]
        return Changes(rollout=facts.id, product=facts.product, version=facts.version, changes=found)

    return routes


def told(store: Store, rollout: int, now: int, devices: int = MOST_SHOWN) -> Rollout:
    """A rollout with its phases and some of its devices, as it travels."""
    facts = store.rollouts.find(rollout)
    return Rollout(
        **rollout_view.summary(facts),
        plan=dict(facts.plan),
        phases=rollout_view.phases(facts, store.rollouts.tally(rollout)),
        soak_until=rollout_view.soak_until(facts, now),
        reasons=rollout_view.reasons(store.rollouts.reasons(rollout, REASONS)),
        devices=[rollout_view.member(facts, each) for each in store.rollouts.interesting(rollout, devices)]
        if devices
        else [],
    )


def wished(new: NewRollout) -> Plan:
    """The plan of a request; errors `plan.*`, `name.*`, `request.selector`, `rollout.no_selector`."""
    if new.plan is not None:
        return Plan.parse(new.plan)
    selector = Selector.parse(new.selector)
    if not selector.terms and not new.all:
        raise ServerError(
            "rollout.no_selector", "no devices are chosen", "give a selector, or all: true for every device"
        )
    assert new.product is not None  # noqa: S101 (the schema has seen to it)
    assert new.version is not None  # noqa: S101
    check_product(new.product)
    check_version(new.version)
    canaries = [{"name": "canary", "devices": new.canary}] if new.canary else []
    return Plan.parse(
        {
            "product": new.product,
            "version": new.version,
            "devices": {"labels": dict(selector.terms)} if selector.terms else {"all": True},
            "phases": canaries,
            "note": new.note,
        }
    )


def phase_index(plan: Mapping[str, Any], name: str) -> int | None:
    """The index of a plan's phase; None without a name; error `request.schema`."""
    if not name:
        return None
    names = [phase["name"] for phase in plan["phases"]]
    if name not in names:
        raise ServerError("request.schema", f"phase: {name[:64]!r} is none", f"there are {', '.join(names)}"[:300])
    return names.index(name)


def _among(texts: str, what: str, known: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_only(text.strip(), what, known) for text in texts.split(",") if text.strip())


def _only(text: str, what: str, known: tuple[str, ...]) -> str:
    if text and text not in known:
        raise ServerError("request.schema", f"{what}: {text[:64]!r} is none", f"there are {', '.join(known)}")
    return text
