"""Owns the tables of webhooks and of what is delivered to them. Times are Unix seconds."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table, Text

from beamfleet_server.store.tables import metadata

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("url", String, nullable=False, unique=True),
    Column("kinds", JSON, nullable=False),
    Column("causes", JSON, nullable=False),
    Column("salt", String, nullable=False),
    Column("old_salt", String, nullable=False, default=""),
    Column("old_until", BigInteger, nullable=False, default=0),
    Column("created", BigInteger, nullable=False),
    Column("created_by", String, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("cursor", BigInteger, nullable=False),
    Column("failing_since", BigInteger),
    Column("error", String, nullable=False, default=""),
    sqlite_autoincrement=True,
)
"""`salt`: what makes a webhook's secret out of the server's key file; the secret itself is in no table. `cursor`: the
newest event that was looked at for it, whose deliveries are all rows. `failing_since`: since when nothing was taken."""

deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("webhook_id", ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False),
    Column("event_id", ForeignKey("events.id", ondelete="CASCADE"), index=True),
    Column("message", String, nullable=False),
    Column("type", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("tries", BigInteger, nullable=False, default=0),
    Column("began", BigInteger),
    Column("next_try", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("status", BigInteger, nullable=False, default=0),
    Column("error", String, nullable=False, default=""),
    Index(None, "webhook_id", "state", "next_try"),
    Index(None, "state", "time"),
    sqlite_autoincrement=True,
)
"""What is or was sent. `message` is the id by which a receiver knows a double; `began`: the first try of this round;
`time`: the last change; `status`: HTTP's, 0 without an answer. A deleted device's events go, and these with them."""
