"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables; those that others point at come first."""
    _documents()
    _versions()
    _stages()


def _documents() -> None:
    op.create_table(
        "documents",
        sa.Column("id", sa.String(256), primary_key=True),
        sa.Column("event_key", sa.String, nullable=False, unique=True),
        sa.Column("content_hash", sa.String, nullable=False, unique=True),
        sa.Column("place", sa.String, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("conflict", sa.Double),
        sa.Column("event_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "lessons",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("document_id", sa.String(256), sa.ForeignKey("documents.id"), nullable=False, index=True),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("held_out", sa.Boolean, nullable=False),
    )
    op.create_table(
        "signals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("document_id", sa.String, nullable=False),
        sa.Column("conflict", sa.Double, nullable=False),
        sa.Column("nll", sa.Double, nullable=False),
    )


def _versions() -> None:
    op.create_table(
        "updates",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("figures", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("parent", sa.String),
        sa.Column("update_id", sa.String, unique=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("manifest", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("version_id", sa.String, sa.ForeignKey("versions.id"), primary_key=True),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "promotions",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("version_id", sa.String, sa.ForeignKey("versions.id"), nullable=False),
        sa.Column("cause", sa.String, nullable=False),
        sa.Column("decision", sa.String, unique=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )


def _stages() -> None:
    op.create_table(
        "replicas",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("version_id", sa.String, nullable=False),
        sa.Column("error", sa.String, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("stage", sa.String, nullable=False, index=True),
        sa.Column("topic", sa.String, nullable=False),
        sa.Column("key", sa.LargeBinary),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
    )
    op.create_table(
        "control",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
