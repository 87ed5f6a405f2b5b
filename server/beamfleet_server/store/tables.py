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
    text,
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
    Column("cause", String, nullable=False, default="rate"),
)
"""Devices that the broker does not take for a while; `cause`: `rate`, or `clone` until somebody decides."""

SUCCEEDED = text("replaced_by <> ''")

devices = Table(
    "devices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("enrolled", BigInteger),
    Column("session", BigInteger, nullable=False, default=0),
    Column("online", Boolean, nullable=False, default=False),
    Column("offline_reason", String, nullable=False, default=""),
    Column("offline_since", BigInteger),
    Column("last_seen", BigInteger),
    Column("keepalive_s", BigInteger, nullable=False, default=0),
    Column("interval_s", BigInteger, nullable=False, default=0),
    Column("agent", String, nullable=False, default=""),
    Column("profile", String, nullable=False, default=""),
    Column("machines", JSON, nullable=False, default=list),
    Column("returns", JSON, nullable=False, default=list),
    Column("lot", BigInteger, nullable=False, default=0),
    Column("pinned", String, nullable=False, default=""),
    Column("pinned_by", String, nullable=False, default=""),
    Column("retired", BigInteger),
    Column("retired_by", String, nullable=False, default=""),
    Column("replaced_by", String, nullable=False, default=""),
    Column("handed_over", BigInteger),
    Index("ix_devices_replaced_by", "replaced_by", sqlite_where=SUCCEEDED, postgresql_where=SUCCEEDED),
)
"""`machines`: the newest boots that were seen under this id, `[boot id, highest session, time]`; `returns`: when one of
them came back after another, which no single machine does. `lot`: `fleet.draw.lot` of the name. `pinned`: why rollouts
leave it alone, empty if they do not. `keepalive_s`: it says something at least this often while it is
online; `interval_s`: the longest time between two of its health reports; 0: it does not say. `retired`: since when it
is out of service; `replaced_by`: the device that has its place, since `handed_over`, or will when it enrols."""

IN_SERVICE = devices.c.retired.is_(None)
"""What holds for the devices that selectors, rollouts and health mean."""

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
    Column("prefix", String, nullable=False, default=""),
    Column("labels", JSON, nullable=False),
    Column("replace", Boolean, nullable=False, default=False),
    Column("uses", BigInteger, nullable=False, default=1),
    Column("uses_left", BigInteger, nullable=False, default=1),
    Column("created", BigInteger, nullable=False),
    Column("created_by", String, nullable=False, default=""),
    Column("expires", BigInteger, nullable=False),
    Column("used", BigInteger),
)
"""`device` is empty for a token that any new device may use whose id begins with `prefix`. `used`: the last time."""

certificates = Table(
    "certificates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("serial", String, nullable=False, unique=True),
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("authority", String, nullable=False, default=""),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("revoked", BigInteger),
    Column("first_used", BigInteger),
    Column("used", BigInteger),
    Column("der", LargeBinary, nullable=False),
)
"""`first_used` and `used` are times of HTTPS requests; the second is written at most once a day."""

token_uses = Table(
    "token_uses",
    metadata,
    Column("certificate_id", ForeignKey("certificates.id", ondelete="CASCADE"), primary_key=True),
    Column("token_id", ForeignKey("tokens.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("key_sha256", String, nullable=False),
)
"""What tokens were spent for, so that an answer that was lost can be given again."""

enrolment_requests = Table(
    "enrolment_requests",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String, nullable=False),
    Column("key_sha256", String, nullable=False),
    Column("address", String, nullable=False, index=True),
    Column("created", BigInteger, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("replace", Boolean, nullable=False, default=False),
    Column("decided_by", String, nullable=False, default=""),
    Column("decided", BigInteger),
    Column("certificate_id", ForeignKey("certificates.id", ondelete="CASCADE")),
    UniqueConstraint("device", "key_sha256"),
)
"""Devices without a token that wait for a person."""

authorities = Table(
    "authorities",
    metadata,
    Column("id", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("der", LargeBinary, nullable=False),
)
"""The fleet's authorities: `active` (one: it signs), `trusted`, `retired`. Their keys are files."""

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

seen_metadata = Table(
    "seen_metadata",
    metadata,
    Column("role", String, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("device", String, nullable=False),
    Column("time", BigInteger, nullable=False),
)
"""The highest version of each role that a device has reported and that was above ours then: we had it once."""

expiries_told = Table(
    "expiries_told",
    metadata,
    Column("what", String, primary_key=True),
    Column("expires", BigInteger, nullable=False),
    Column("state", String, nullable=False),
)
"""Of what an event says already that it is `due` or `expired`, so that it is said once."""

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
    Column("arch", String, nullable=False, default=""),
    Column("libc", String, nullable=False, default=""),
    Column("hardware", String, nullable=False, default=""),
    Column("timezone", String, nullable=False, default=""),
    Column("network", String, nullable=False, default=""),
    Column("update_phase", String, nullable=False, default=""),
    Column("update_manifest", String, nullable=False, default=""),
    Column("update_attempt", BigInteger, nullable=False, default=0),
    Column("update_reason", String, nullable=False, default=""),
    Column("update_detail", String, nullable=False, default=""),
    Column("failed_slot", String, nullable=False, default=""),
    Column("failed_attempt", BigInteger, nullable=False, default=0),
    Column("failed_cause", String, nullable=False, default=""),
    Column("state", JSON),
    Column("progress", JSON),
    Column("falls", JSON, nullable=False, default=list),
)
"""The newest word of each application of each device; `state` and `progress` are the messages as they came, and the
columns before them are copied out of `state` for those who look at many devices at once. A `_seq` of -1: nothing has
come yet. `falls`: when it ended last without being asked to."""

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
    Column("rollout_id", ForeignKey("rollouts.id", ondelete="SET NULL")),
    Column("force", Boolean, nullable=False, default=False),
)
"""The newest assignment of each application of each device. `publication` grows with each one that is signed."""

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String, unique=True),
    Column("product", String, nullable=False),
    Column("version", String, nullable=False),
    Column("plan", JSON, nullable=False),
    Column("kind", String, nullable=False, default="update"),
    Column("of_id", BigInteger),
    Column("priority", BigInteger, nullable=False, default=0),
    Column("note", String, nullable=False),
    Column("by", String, nullable=False, default=""),
    Column("state", String, nullable=False, index=True),
    Column("reason", String, nullable=False),
    Column("paused_reason", String, nullable=False, default=""),
    Column("phase", Integer, nullable=False, default=0),
    Column("phase_since", BigInteger, nullable=False, default=0),
    Column("proved_since", BigInteger),
    Column("gate", String, nullable=False, default=""),
    Column("forgiven", BigInteger, nullable=False, default=0),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False, default=0),
    Column("finished", BigInteger),
)
"""What was asked for and how far it is. `plan` is `fleet.plan.Plan` as JSON, `phase` the index into its phases, `kind`
`update` or `undo` (of `of_id`), `proved_since` when the phase had the successes it needs, `forgiven` how many bad
devices a person has seen and gone on, `reason` why it ended or was halted."""

LACKING = text("bundle_id IS NULL")

rollout_devices = Table(
    "rollout_devices",
    metadata,
    Column("rollout_id", ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("device_id", ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("bundle_id", ForeignKey("bundles.id")),
    Column("before_id", ForeignKey("bundles.id")),
    Column("attempt", BigInteger, nullable=False),
    Column("phase", Integer),
    Column("draw", BigInteger, nullable=False, default=0),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("detail", String, nullable=False, default=""),
    Column("evidence", Boolean, nullable=False, default=False),
    Column("heard", Boolean, nullable=False, default=True),
    Column("withdrawal", Boolean, nullable=False, default=False),
    Column("step", Boolean, nullable=False, default=False),
    Column("tries", BigInteger, nullable=False, default=0),
    Column("next_try", BigInteger),
    Column("offered_at", BigInteger),
    Column("deadline", BigInteger),
    Column("updated", BigInteger, nullable=False),
    Index(None, "rollout_id", "phase", "state"),
    Index(None, "rollout_id", "state", "draw"),
    Index(
        "ix_rollout_devices_withdrawal",
        "rollout_id",
        sqlite_where=text("withdrawal = 1"),
        postgresql_where=text("withdrawal"),
    ),
    Index("ix_rollout_devices_unresolved", "rollout_id", "device_id", sqlite_where=LACKING, postgresql_where=LACKING),
)
"""The members of rollouts. `bundle_id`: what it shall run, or the stepping stone on the way (`step`); `before_id`: what
it ran when it was offered something first. `phase`: the one in which it has its place. `evidence`: its end says
something against the release. `heard`: of those of its device it is the one that was joined last, which is told by it.
`withdrawal`: it was superseded, and its device has still to be told so. `tries`: retries that it had; `offered_at`,
`deadline`: of the newest offer."""

quarantine = Table(
    "quarantine",
    metadata,
    Column("manifest", String, primary_key=True),
    Column("product", String, nullable=False),
    Column("version", String, nullable=False),
    Column("rollout_id", ForeignKey("rollouts.id", ondelete="SET NULL")),
    Column("time", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
    Column("evidence", String, nullable=False, default=""),
    Column("lifted_by", String, nullable=False, default=""),
    Column("lifted", BigInteger),
)
"""Bundles that no rollout offers until a person lifts it (`lifted`)."""

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
