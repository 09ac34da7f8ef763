"""The task list's facets and indexes: any filter is fast at a million items."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

from raypacs.index.facets import FILL

revision = "0005"
down_revision = "0004"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_FACET = ("kind", "state", "node", "ae_title", "priority")
_NEW: dict[str, tuple[list[str], str]] = {
    "ix_work_items_due": (["due_s"], "state IN ('SCHEDULED', 'SCHEDULED FOR RETRY')"),
    "ix_work_items_held": (["node"], "state = 'IN PROCESS'"),
    "ix_work_items_study": (["study_uid", "item_id"], ""),
    "ix_work_items_patient": (["patient_id", "item_id"], ""),
    "ix_work_items_facet": (["facet_id", "item_id", "created_s", "updated_s"], ""),
    "ix_work_items_created": (["created_s", "facet_id", "updated_s"], ""),
    "ix_work_items_updated": (["updated_s", "facet_id"], ""),
    "ix_work_items_bound": (["wanted_node"], "wanted_node <> ''"),
    "ix_work_items_error": (["error", "facet_id", "created_s", "updated_s"], "error <> ''"),
}


def upgrade() -> None:
    """Make the facets of the items there are, then the indexes."""
    op.add_column(
        "work_items", sa.Column("facet_id", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.create_table(
        "item_facets",
        sa.Column(
            "facet_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True
        ),
        *_facet_columns(),
        sa.Column("items", sa.BigInteger(), server_default="0", nullable=False),
    )
    op.create_index("ux_item_facets", "item_facets", list(_FACET), unique=True)
    for statement in FILL:
        op.execute(statement)
    op.drop_index("ix_work_items_state", "work_items")
    op.drop_index("ix_work_items_study", "work_items")
    for name, (columns, where) in _NEW.items():
        condition = sa.text(where) if where else None
        op.create_index(
            name, "work_items", columns, sqlite_where=condition, postgresql_where=condition
        )


def _facet_columns() -> Iterator[sa.Column[str] | sa.Column[int]]:
    for name in _FACET[:-1]:
        yield sa.Column(name, _TEXT, server_default="", nullable=False)
    yield sa.Column("priority", sa.BigInteger(), server_default="0", nullable=False)


def downgrade() -> None:
    """Take them away."""
    for name in _NEW:
        op.drop_index(name, "work_items")
    op.drop_table("item_facets")
    with op.batch_alter_table("work_items") as batch:
        batch.drop_column("facet_id")
    op.create_index("ix_work_items_study", "work_items", ["study_uid"])
    op.create_index("ix_work_items_state", "work_items", ["state", "kind"])
