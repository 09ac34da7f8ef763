"""Objects kept aside are found by their content, so that a repeat is not kept twice."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_asides_content", "asides", ["sop_instance_uid", "sha256"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("ix_asides_content", "asides")
