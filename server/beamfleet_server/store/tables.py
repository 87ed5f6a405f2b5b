"""Owns the tables: what is kept, under integer keys. Times are Unix seconds. The migrations create exactly this.

Numbers that devices count or clocks give are 64 bits wide; SQLite makes no difference, PostgreSQL does.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

facts = Table(
    "facts",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

operators = Table(
    "operators",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("token_sha256", String, nullable=False, unique=True),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("scopes", JSON, nullable=False, default=list),
    Column("created_by", String, nullable=False, default=""),
)
"""`scopes`: the only operations that the token may do, within its role; empty for all of them."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", String, nullable=False, unique=True),
    Column("operator_id", ForeignKey("operators.id", ondelete="CASCADE"), index=True),
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("address", String, nullable=False),
    Column("agent", String, nullable=False),
)
"""Log-ins on the web. `operator_id` is that of the token with which it began; a session of OIDC has none."""

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("actor", String, nullable=False),
    Column("address", String, nullable=False),
    Column("action", String, nullable=False),
    Column("target", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("detail", String, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
"""Who did what. Never altered; `id` has no gaps, `hash` covers the row and the hash before it."""

approvals = Table(
    "approvals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("plan", JSON, nullable=False),
    Column("key", String, unique=True),
    Column("devices", BigInteger, nullable=False),
    Column("asked_by", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("decided_by", String, nullable=False, default=""),
    Column("decided", BigInteger),
    Column("rollout_id", ForeignKey("rollouts.id", ondelete="SET NULL")),
)
"""Rollouts that wait for a second operator, or did."""

revocations = Table(
    "revocations",
    metadata,
    Column("serial", String, primary_key=True),
    Column("not_after", BigInteger, nullable=False),
    Column("revoked", BigInteger, nullable=False),
)
"""Certificates of devices that were deleted: all that is left of them until they expire."""

denials = Table(
    "denials",
    metadata,
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("until", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
)
"""Devices that the broker does not take for a while."""

devices = Table(
    "devices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("enrolled", BigInteger),
    Column("session", BigInteger, nullable=False, default=0),
    Column("online", Boolean, nullable=False, default=False),
    Column("offline_reason", String, nullable=False, default=""),
    Column("last_seen", BigInteger),
    Column("agent", String, nullable=False, default=""),
    Column("profile", String, nullable=False, default=""),
)

labels = Table(
    "labels",
    metadata,
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
    Index(None, "key", "value"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sha256", String, nullable=False, unique=True),
    Column("device", String, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("replace", Boolean, nullable=False, default=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("used", BigInteger),
    Column("key_sha256", String),
    Column("certificate_id", ForeignKey("certificates.id")),
)

certificates = Table(
    "certificates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("serial", String, nullable=False, unique=True),
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("revoked", BigInteger),
    Column("der", LargeBinary, nullable=False),
)

products = Table(
    "products",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("created", BigInteger, nullable=False),
)

tuf_metadata = Table(
    "tuf_metadata",
    metadata,
    Column("role", String, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("created", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

bundles = Table(
    "bundles",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("product", String, nullable=False),
    Column("version", String, nullable=False),
    Column("target", String, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("manifest", String, nullable=False, unique=True),
    Column("manifest_size", BigInteger, nullable=False),
    Column("pack_size", BigInteger, nullable=False),
    Column("pack_sha256", String, nullable=False),
    Column("unpacked", BigInteger, nullable=False),
    Column("release", JSON, nullable=False),
    Column("created", BigInteger, nullable=False),
    UniqueConstraint("product", "version", "target"),
)

applications = Table(
    "applications",
    metadata,
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("app", String, primary_key=True),
    Column("state_boot", BigInteger, nullable=False, default=0),
    Column("state_seq", BigInteger, nullable=False, default=-1),
    Column("acked_boot", BigInteger, nullable=False, default=0),
    Column("acked_seq", BigInteger, nullable=False, default=-1),
    Column("sequence", BigInteger, nullable=False, default=0),
    Column("product", String, nullable=False, default=""),
    Column("version", String, nullable=False, default=""),
    Column("manifest", String, nullable=False, default=""),
    Column("phase", String, nullable=False, default=""),
    Column("attempt", BigInteger, nullable=False, default=0),
    Column("state", JSON),
    Column("progress", JSON),
    Column("health", JSON),
)
"""The newest word of each application of each device; `state`, `progress`, `health` are the messages as they came. A
`_seq` of -1: nothing has come yet."""

assignments = Table(
    "assignments",
    metadata,
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("app", String, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("bundle_id", ForeignKey("bundles.id")),
    Column("created", BigInteger, nullable=False),
    Column("publication", BigInteger, nullable=False, unique=True),
    Column("body", LargeBinary, nullable=False),
)
"""The newest assignment of each application of each device. `publication` grows with each one that is signed."""

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, unique=True),
    Column("product", String, nullable=False),
    Column("version", String, nullable=False),
    Column("selector", String, nullable=False),
    Column("canary", BigInteger, nullable=False),
    Column("note", String, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("phase", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("finished", BigInteger),
)

rollout_devices = Table(
    "rollout_devices",
    metadata,
    Column("rollout_id", ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("bundle_id", ForeignKey("bundles.id")),
    Column("attempt", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("canary", Boolean, nullable=False),
    Column("offered", Boolean, nullable=False),
    Column("reason", String, nullable=False),
    Column("updated", BigInteger, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), index=True),
    Column("kind", String, nullable=False),
    Column("cause", String, nullable=False),
    Column("detail", String, nullable=False),
    Column("rollout_id", BigInteger),
    Column("data", JSON, nullable=False),
    Column("boot", BigInteger),
    Column("seq", BigInteger),
    UniqueConstraint("device_id", "boot", "seq"),
    sqlite_autoincrement=True,
)
