"""Drift signals by partition, with embeddings, and the detectors' votes.

Signals of the first release lack a partition, so they can't be told apart: detectors begin anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.drop_table("signals")
    op.create_table(
        "signals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("document_id", sa.String, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False, index=True),
        sa.Column("conflict", sa.Double, nullable=False),
        sa.Column("nll", sa.Double, nullable=False),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "detections",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("document_id", sa.String, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("detector", sa.String, nullable=False),
        sa.Column("signal", sa.String, nullable=False),
        sa.Column("statistic", sa.Double, nullable=False),
        sa.Column("delay", sa.Integer, nullable=False),
        sa.Column("is_drift", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
