"""Owns the shapes of rollouts, approvals and quarantine in the operators' API. Requests are closed."""

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from beamfleet_server.api.schemas import Closed

Key = Annotated[str | None, Field(min_length=8, max_length=64)]
Words = Annotated[str, Field(max_length=500)]
Counts = dict[str, int]
"""Devices by state; every state is there."""


class NewRollout(Closed):
    """A release for devices: by `plan`, as ROLLOUTS.md describes it, or in short.

    In short: `selector` means the devices, an empty one only together with `all`; `canary` of them go first, then
    everyone else. `key` is of the caller's choice: a second request with the same one, after an answer was lost, starts
    nothing and is answered with the rollout of the first.
    """

    key: Key = None
    plan: dict[str, Any] | None = None
    product: str | None = None
    version: str | None = None
    selector: str = Field(default="", max_length=2000)
    all: bool = False
    canary: int = Field(default=1, ge=0, le=1_000_000)
    note: Words = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> "NewRollout":
        short = self.model_fields_set - {"key", "plan"}
        if self.plan is not None and short:
            raise ValueError(f"plan has {', '.join(sorted(short))} in itself")
        if self.plan is None and (self.product is None or self.version is None):
            raise ValueError("plan is missing, or product and version")
        return self


class Pausing(Closed):
    """Why somebody pauses or aborts a rollout."""

    reason: Words = ""


class Approving(Closed):
    """The gate after which phase is meant; the one that waits, if none is named."""

    phase: str = Field(default="", max_length=63)


class Undoing(Closed):
    """`key` as for a new rollout."""

    key: Key = None


class Retrying(Closed):
    """Which devices shall try again; all that reverted or failed, without."""

    devices: list[str] | None = Field(default=None, min_length=1, max_length=10_000)


class Retried(BaseModel):
    """How many devices try again."""

    rollout: int
    retried: int


class RolloutSummary(BaseModel):
    """A rollout with the number of its devices by state.

    `kind`: `update`, or `undo` of the rollout `of`. `selector`: the devices in words, empty for all. `phase`: its name,
    `done` at the end. `gate`: `waiting` for a person, `approved`, or empty.
    """

    id: int
    kind: str
    of: int | None
    product: str
    version: str
    selector: str
    canary: int
    note: str
    by: str
    priority: int
    state: str
    phase: str
    gate: str
    reason: str
    created: str
    expires: str
    finished: str | None
    counts: Counts


class PhaseFacts(BaseModel):
    """A phase: `size` devices of its own, of which `tolerated` may fail; `state`: `done`, `current` or `ahead`."""

    name: str
    size: int
    soak_s: int
    gate: bool
    tolerated: int
    max_parallel: int
    state: str
    counts: Counts


class Reason(BaseModel):
    """Why how many devices are where they are, and the id of one of them."""

    state: str
    reason: str
    count: int
    example: str


class Member(BaseModel):
    """A device in a rollout. `phase`: the one in which it was offered the release, empty before; `evidence`: whether
    its end speaks against the release; `before`: the version that it ran; `done` and `total` are bytes of its
    download."""

    id: str
    phase: str
    canary: bool
    state: str
    reason: str
    detail: str
    evidence: bool
    tries: int
    next_try: str | None
    deadline: str | None
    before: str
    done: int
    total: int
    updated: str


class Rollout(RolloutSummary):
    """A rollout with its plan, its phases, the most frequent reasons, and at most 500 of its devices, the most
    interesting ones first: what went wrong, what is under way."""

    plan: dict[str, Any]
    phases: list[PhaseFacts]
    soak_until: str | None
    reasons: list[Reason]
    devices: list[Member]


class PlannedPhase(BaseModel):
    """A phase as it would be for the devices of now."""

    name: str
    size: int
    soak_s: int
    gate: bool
    tolerated: int


class PlannedBundle(BaseModel):
    """What how many devices would get; `size` of the bundle and `bytes` of all downloads of it."""

    target: str
    version: str
    manifest: str
    devices: int
    size: int
    bytes: int


class Excluded(BaseModel):
    """Why how many devices would not get it, and some of their ids."""

    reason: str
    count: int
    examples: list[str]


class ZoneWindow(BaseModel):
    """Whether the window is open for the devices of a time zone, and when that changes; null: never."""

    zone: str
    devices: int
    open: bool
    next: str | None


class Preview(BaseModel):
    """What a rollout would do if it was started now. `already`: devices that run the release; `superseded`: rollouts
    that it would take devices over from."""

    product: str
    version: str
    devices: int
    already: int
    bytes: int
    phases: list[PlannedPhase]
    bundles: list[PlannedBundle]
    excluded: list[Excluded]
    windows: list[ZoneWindow]
    superseded: list[int]


class Change(BaseModel):
    """What a rollout changes on how many devices: `before` is the version that they ran, empty if nobody knows;
    `bytes` of the bundle; ids of some of them."""

    target: str
    before: str
    before_manifest: str
    version: str
    manifest: str
    bytes: int
    devices: int
    examples: list[str]


class Changes(BaseModel):
    """What a rollout changes, the most frequent first."""

    rollout: int
    product: str
    version: str
    changes: list[Change]


class Approval(BaseModel):
    """A rollout that needs a second operator; `devices`: how many it meant when it was asked for."""

    id: int
    product: str
    version: str
    selector: str
    note: str
    plan: dict[str, Any]
    devices: int
    asked_by: str
    created: str
    expires: str
    state: str
    decided_by: str
    decided: str | None
    rollout: int | None


class Quarantined(BaseModel):
    """A bundle that no rollout offers, and the rollout that it halted."""

    manifest: str
    product: str
    version: str
    rollout: int | None
    time: str
    reason: str
    evidence: str
    lifted: str | None
    lifted_by: str


class Lifting(Closed):
    """What shall be offered again: one bundle by its manifest, or all of a release."""

    manifest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    product: str | None = Field(default=None, max_length=64)
    version: str | None = Field(default=None, max_length=64)

    @model_validator(mode="after")
    def _one_of_both(self) -> "Lifting":
        release = (self.product is not None, self.version is not None)
        if release != ((False, False) if self.manifest is not None else (True, True)):
            raise ValueError("either manifest is needed, or product and version")
        return self


class Lifted(BaseModel):
    """The manifests that are out of quarantine."""

    lifted: list[str]


class Pinning(Closed):
    """Why a device shall be left alone."""

    reason: str = Field(min_length=1, max_length=200)
