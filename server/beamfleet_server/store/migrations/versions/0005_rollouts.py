"""Rollouts: plans with phases, members with deadlines and retries, quarantine, and the report's fields as columns"""

import hashlib
import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

TEXTS = ("arch", "libc", "hardware", "timezone", "network")
UPDATE_TEXTS = ("update_phase", "update_manifest", "update_reason", "update_detail", "failed_slot", "failed_cause")
LIFE_S = 30 * 86_400


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(), nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0")


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())


def upgrade() -> None:
    """Apply."""
    for name in (*TEXTS, *UPDATE_TEXTS):
        op.add_column("applications", _text(name))
    for name in ("update_attempt", "failed_attempt"):
        op.add_column("applications", _number(name))
    op.add_column("devices", _number("lot"))
    op.add_column("devices", _text("pinned"))
    op.add_column("devices", _text("pinned_by"))
    _copy_reports()
    _draw_lots()
    _rollouts()
    _members()
    _approvals()
    with op.batch_alter_table("assignments", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rollout_id", sa.Integer(), nullable=True))
        batch_op.add_column(_flag("force"))
        batch_op.create_foreign_key(
            batch_op.f("fk_assignments_rollout_id"), "rollouts", ["rollout_id"], ["id"], ondelete="SET NULL"
        )
    op.create_table(
        "quarantine",
        sa.Column("manifest", sa.String(), nullable=False),
        sa.Column("product", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("rollout_id", sa.Integer(), nullable=True),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("evidence", sa.String(), nullable=False),
        sa.Column("lifted_by", sa.String(), nullable=False),
        sa.Column("lifted", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_quarantine_rollout_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("manifest", name=op.f("pk_quarantine")),
    )


def _copy_reports() -> None:
    table = sa.table(
        "applications",
        sa.column("device_id"),
        sa.column("app"),
        sa.column("state", sa.JSON()),
        *(sa.column(name) for name in (*TEXTS, *UPDATE_TEXTS, "update_attempt", "failed_attempt")),
    )
    connection = op.get_bind()
    rows = connection.execute(sa.select(table.c.device_id, table.c.app, table.c.state)).all()
    copied = [{"key": row.device_id, "of_app": row.app, **_fields(row.state)} for row in rows if row.state]
    if copied:
        names = [name for name in copied[0] if name not in ("key", "of_app")]
        change = sa.update(table).where(table.c.device_id == sa.bindparam("key"), table.c.app == sa.bindparam("of_app"))
        connection.execute(change.values({name: sa.bindparam(name) for name in names}), copied)


def _fields(state: dict[str, Any]) -> dict[str, Any]:
    inventory, work = state.get("inventory") or {}, state.get("update") or {}
    slot, _, rest = str(state.get("failed") or "").partition(":")
    attempt, _, cause = rest.partition(":")
    return {
        **{name: inventory.get(name) or "" for name in TEXTS},
        **{f"update_{name}": work.get(name) or "" for name in ("phase", "manifest", "reason", "detail")},
        "update_attempt": work.get("attempt") or 0,
        "failed_slot": slot,
        "failed_attempt": int(attempt) if attempt.isascii() and attempt.isdigit() and len(attempt) <= 18 else 0,
        "failed_cause": cause,
    }


def _draw_lots() -> None:
    table = sa.table("devices", sa.column("id"), sa.column("name"), sa.column("lot"))
    connection = op.get_bind()
    rows = connection.execute(sa.select(table.c.id, table.c.name)).all()
    lots = [
        {"key": row.id, "drawn": int.from_bytes(hashlib.sha256(row.name.encode()).digest()[:4], "big") % (2**31 - 1)}
        for row in rows
    ]
    if lots:
        change = sa.update(table).where(table.c.id == sa.bindparam("key")).values(lot=sa.bindparam("drawn"))
        connection.execute(change, lots)


def _plan(product: str, version: str, selector: str, canary: int, note: str) -> dict[str, Any]:
    """Failures stop it at once, as they did when this was asked for."""
    labels: dict[str, list[str]] = {}
    for term in filter(None, selector.split(",")):
        key, _, value = term.partition("=")
        labels[key] = [value]
    first: list[dict[str, Any]] = [{"name": "canary", "devices": canary, "failures": 0}] if canary else []
    return {
        "product": product,
        "version": version,
        "devices": {"labels": labels} if labels else {"all": True},
        "phases": [*first, {"name": "rest", "devices": "all", "failures": 0}],
        "note": note,
    }


def _rollouts() -> None:
    op.add_column("rollouts", sa.Column("plan", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("rollouts", sa.Column("kind", sa.String(), nullable=False, server_default="update"))
    for name in ("by", "paused_reason", "gate"):
        op.add_column("rollouts", _text(name))
    for name in ("priority", "phase_since", "forgiven", "expires"):
        op.add_column("rollouts", _number(name))
    op.add_column("rollouts", sa.Column("of_id", sa.BigInteger(), nullable=True))
    op.add_column("rollouts", sa.Column("proved_since", sa.BigInteger(), nullable=True))
    op.add_column("rollouts", sa.Column("phase_index", sa.Integer(), nullable=False, server_default="0"))
    table = sa.table(
        "rollouts",
        *(sa.column(name) for name in ("id", "product", "version", "selector", "canary", "note", "state", "phase")),
        *(sa.column(name) for name in ("created", "finished", "expires", "phase_index", "phase_since")),
        sa.column("plan", sa.JSON()),
    )
    connection = op.get_bind()
    until = int(time.time()) + LIFE_S
    for row in connection.execute(sa.select(table)).all():
        plan = _plan(row.product, row.version, row.selector, row.canary, row.note)
        values = {
            "plan": plan,
            "phase_index": 0 if row.phase == "canary" else len(plan["phases"]) - 1,
            "phase_since": row.created,
            "expires": until if row.state == "running" else (row.finished or row.created),
        }
        connection.execute(sa.update(table).where(table.c.id == row.id).values(values))
    for name in ("phase", "selector", "canary"):
        op.drop_column("rollouts", name)
    op.alter_column("rollouts", "phase_index", new_column_name="phase")


def _members() -> None:
    with op.batch_alter_table("rollout_devices", schema=None) as batch_op:
        batch_op.add_column(sa.Column("before_id", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("phase", sa.Integer(), nullable=True))
        batch_op.add_column(_number("draw"))
        batch_op.add_column(_text("detail"))
        batch_op.add_column(_flag("evidence"))
        batch_op.add_column(_flag("step"))
        batch_op.add_column(_flag("heard"))
        batch_op.add_column(_flag("withdrawal"))
        batch_op.add_column(_number("tries"))
        batch_op.add_column(sa.Column("next_try", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("offered_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("deadline", sa.BigInteger(), nullable=True))
        batch_op.create_foreign_key(batch_op.f("fk_rollout_devices_before_id"), "bundles", ["before_id"], ["id"])
    table = sa.table(
        "rollout_devices",
        *(sa.column(name) for name in ("rollout_id", "device_id", "state", "canary", "offered", "phase", "draw")),
        *(sa.column(name) for name in ("offered_at", "updated", "evidence", "heard")),
    )
    lots = sa.table("devices", sa.column("id"), sa.column("lot"))
    plans = sa.table("rollouts", sa.column("id"), sa.column("plan", sa.JSON()))
    connection = op.get_bind()
    lot = sa.select(lots.c.lot).where(lots.c.id == table.c.device_id).scalar_subquery()
    connection.execute(sa.update(table).values(draw=lot))
    connection.execute(sa.update(table).where(table.c.offered).values(offered_at=table.c.updated))
    other = table.alias("other")
    newest = sa.select(sa.func.max(other.c.rollout_id)).where(other.c.device_id == table.c.device_id).scalar_subquery()
    connection.execute(sa.update(table).where(table.c.rollout_id == newest).values(heard=sa.true()))
    for rollout_id, plan in connection.execute(sa.select(plans.c.id, plans.c.plan)).all():
        last = len(plan["phases"]) - 1
        ours = (table.c.rollout_id == rollout_id, table.c.offered)
        connection.execute(sa.update(table).where(*ours).values(phase=sa.case((table.c.canary, 0), else_=last)))
    connection.execute(sa.update(table).where(table.c.state == "verified").values(state="verifying"))
    bad = table.c.state.in_(("reverted", "failed"))
    connection.execute(sa.update(table).where(bad).values(evidence=sa.true()))
    with op.batch_alter_table("rollout_devices", schema=None) as batch_op:
        batch_op.drop_column("canary")
        batch_op.drop_column("offered")
        batch_op.create_index(batch_op.f("ix_rollout_devices_rollout_id_phase_state"), ["rollout_id", "phase", "state"])
        batch_op.create_index(batch_op.f("ix_rollout_devices_rollout_id_state_draw"), ["rollout_id", "state", "draw"])
    op.create_index(
        op.f("ix_rollout_devices_withdrawal"),
        "rollout_devices",
        ["rollout_id"],
        sqlite_where=sa.text("withdrawal = 1"),
        postgresql_where=sa.text("withdrawal"),
    )
    lacking = sa.text("bundle_id IS NULL")
    op.create_index(
        op.f("ix_rollout_devices_unresolved"),
        "rollout_devices",
        ["rollout_id", "device_id"],
        sqlite_where=lacking,
        postgresql_where=lacking,
    )


def _approvals() -> None:
    table = sa.table("approvals", sa.column("id"), sa.column("plan", sa.JSON()))
    connection = op.get_bind()
    for number, plan in connection.execute(sa.select(table.c.id, table.c.plan)).all():
        wish = _plan(*(plan[name] for name in ("product", "version", "selector", "canary", "note")))
        connection.execute(sa.update(table).where(table.c.id == number).values(plan=wish))
