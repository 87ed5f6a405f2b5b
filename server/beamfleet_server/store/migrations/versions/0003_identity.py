"""Identity: authorities, use of certificates, tokens for many, requests that wait for approval, machines of a device"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "authorities",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authorities")),
    )
    with op.batch_alter_table("certificates", schema=None) as batch_op:
        batch_op.add_column(sa.Column("authority", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("first_used", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("used", sa.BigInteger(), nullable=True))
    op.create_table(
        "token_uses",
        sa.Column("certificate_id", sa.Integer(), nullable=False),
        sa.Column("token_id", sa.Integer(), nullable=False),
        sa.Column("key_sha256", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["certificate_id"], ["certificates.id"], name=op.f("fk_token_uses_certificate_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_token_uses_token_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("certificate_id", name=op.f("pk_token_uses")),
    )
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.add_column(sa.Column("prefix", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("uses", sa.BigInteger(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("uses_left", sa.BigInteger(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("created_by", sa.String(), nullable=False, server_default=""))
    op.execute("update tokens set uses_left = 0 where used is not null")
    spent = sa.table("tokens", sa.column("id"), sa.column("key_sha256"), sa.column("certificate_id"))
    found = sa.select(spent.c.id.label("token_id"), spent.c.key_sha256, spent.c.certificate_id)
    uses = [dict(row) for row in op.get_bind().execute(found.where(spent.c.certificate_id.is_not(None))).mappings()]
    with op.batch_alter_table("token_uses", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_token_uses_token_id"), ["token_id"], unique=False)
    with op.batch_alter_table("tokens", schema=None) as batch_op:
        batch_op.drop_constraint("fk_tokens_certificate_id", type_="foreignkey")
        batch_op.drop_column("certificate_id")
        batch_op.drop_column("key_sha256")
    if uses:  # only now: SQLite makes the table of tokens anew, and what hangs on the old one goes with it
        columns: list[sa.ColumnClause[object]] = [
            sa.column(name) for name in ("token_id", "key_sha256", "certificate_id")
        ]
        op.bulk_insert(sa.table("token_uses", *columns), uses)
    op.create_table(
        "enrolment_requests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("key_sha256", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("asked", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("replace", sa.Boolean(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.Column("decided", sa.BigInteger(), nullable=True),
        sa.Column("certificate_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["certificate_id"],
            ["certificates.id"],
            name=op.f("fk_enrolment_requests_certificate_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolment_requests")),
        sa.UniqueConstraint("device", "key_sha256", name=op.f("uq_enrolment_requests_device_key_sha256")),
    )
    with op.batch_alter_table("enrolment_requests", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_enrolment_requests_address"), ["address"], unique=False)
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.add_column(sa.Column("machines", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("returns", sa.JSON(), nullable=False, server_default="[]"))
    with op.batch_alter_table("denials", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cause", sa.String(), nullable=False, server_default="rate"))
