"""Devices that are out of service, and which ones have their places"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

SUCCEEDED = sa.text("replaced_by <> ''")


def upgrade() -> None:
    """Apply. Every device that is known is in service."""
    for name in ("retired", "handed_over"):
        op.add_column("devices", sa.Column(name, sa.BigInteger(), nullable=True))
    for name in ("retired_by", "replaced_by"):
        op.add_column("devices", sa.Column(name, sa.String(), nullable=False, server_default=""))
    op.create_index(
        "ix_devices_replaced_by", "devices", ["replaced_by"], sqlite_where=SUCCEEDED, postgresql_where=SUCCEEDED
    )
