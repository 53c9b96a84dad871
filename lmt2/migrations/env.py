"""What alembic runs for each command; the connection, and its transaction, are the caller's."""

from alembic import context

from lmt2.ledger import Row

context.configure(connection=context.config.attributes["connection"], target_metadata=Row.metadata)
context.run_migrations()
