"""Studies that were deleted while their files stayed where they were adopted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "let_go",
        sa.Column("study_uid", _TEXT, primary_key=True),
        sa.Column("tier", _TEXT, primary_key=True),
        sa.Column("at_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("who", _TEXT, server_default="", nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("let_go")
