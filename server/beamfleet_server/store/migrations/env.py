"""Runs the migrations on the connection that `database` hands over.

On PostgreSQL, texts are compared by their bytes afterwards, whatever the locale of the database: names are paged
through in the same order everywhere."""

from alembic import context
from sqlalchemy import Connection, text

from beamfleet_server.store.tables import metadata

OTHERWISE_COLLATED = """
SELECT table_name, string_agg(format('ALTER COLUMN %I TYPE varchar COLLATE "C"', column_name), ', ')
FROM information_schema.columns
WHERE table_schema = current_schema() AND data_type = 'character varying' AND collation_name IS DISTINCT FROM 'C'
GROUP BY table_name ORDER BY table_name
"""


def collate(connection: Connection) -> None:
    """Have the texts of our tables compared by their bytes."""
    ours = connection.dialect.identifier_preparer
    for table, changes in connection.execute(text(OTHERWISE_COLLATED)).all():
        if table in metadata.tables:
            connection.exec_driver_sql(f"ALTER TABLE {ours.quote(table)} {changes}")


connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
    if connection.dialect.name == "postgresql":
        collate(connection)
