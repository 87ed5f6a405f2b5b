"""Health: the newest report of each application, its history, and how often a device says something"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

HEADLINES = (
    "memory",
    "processes",
    "run_queue",
    "schedulers",
    "queue",
    "atoms_permille",
    "load",
    "host_memory_permille",
    "disk_permille",
    "temperature",
    "restarts",
)


def upgrade() -> None:
    """Apply. What devices said of their health before is dropped: they say it again, in the new shape."""
    op.drop_column("applications", "health")
    op.add_column("applications", sa.Column("falls", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("devices", sa.Column("offline_since", sa.BigInteger(), nullable=True))
    for name in ("keepalive_s", "interval_s"):
        op.add_column("devices", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.create_table(
        "health",
        sa.Column("device_id", sa.Integer(), nullable=False),
        sa.Column("app", sa.String(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("starts", sa.BigInteger(), nullable=False),
        sa.Column("sections", sa.JSON(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in HEADLINES),
        sa.Column("queue_name", sa.String(), nullable=False),
        sa.Column("uptime_ms", sa.BigInteger(), nullable=True),
        sa.Column("clock_offset_s", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_health_device_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("device_id", "app", name=op.f("pk_health")),
    )
    op.create_table(
        "samples",
        sa.Column("resolution", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("device_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("app", sa.String(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        *(sa.Column(f"{name}_{kind}", sa.BigInteger(), nullable=True) for name in HEADLINES for kind in ("avg", "max")),
        sa.PrimaryKeyConstraint("resolution", "slot", "device_id", "app", name=op.f("pk_samples")),
        sqlite_with_rowid=False,
    )
