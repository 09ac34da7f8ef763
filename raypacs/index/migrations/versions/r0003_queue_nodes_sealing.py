"""Work items say more, are counted and can be halted; nodes drain; studies are sealed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# Bytewise order on PostgreSQL too, whatever the database's locale.
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

_WAITING = sa.text("state IN ('SCHEDULED', 'SCHEDULED FOR RETRY')")
_UNSEALED = sa.text("state = 'prepared' AND sealed_s = 0")


def upgrade() -> None:
    """Add columns and tables, and fill them from what is there."""
    _items()
    _nodes()
    _studies()
    _fill()


def downgrade() -> None:
    """Take them away."""
    op.drop_table("item_counts")
    op.drop_table("halts")
    op.drop_index("ix_work_items_next", "work_items")
    op.drop_index("ix_series_modality", "series")
    op.drop_index("ix_studies_unsealed", "studies")
    for table, names in (
        ("work_items", ("note", "deaths", "patient_id", "ae_title", "payload")),
        ("nodes", ("draining", "lost_s", "left_s", "problems")),
        ("studies", ("modalities", "source", "sealed_s")),
        ("series", ("manifest_bytes",)),
    ):
        with op.batch_alter_table(table) as batch:
            for name in names:
                batch.drop_column(name)
    _next_index(["kind", "priority", "due_s"])


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, server_default="", nullable=False)


def _time(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double(), server_default="0", nullable=False)


def _next_index(columns: list[str]) -> None:
    op.create_index(
        "ix_work_items_next",
        "work_items",
        columns,
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )


def _items() -> None:
    for column in (
        _text("note"),
        sa.Column("deaths", sa.BigInteger(), server_default="0", nullable=False),
        _text("patient_id"),
        _text("ae_title"),
        sa.Column("payload", sa.JSON(), server_default="{}", nullable=False),
    ):
        op.add_column("work_items", column)
    op.drop_index("ix_work_items_next", "work_items")
    _next_index(["kind", "wanted_node", "priority", "due_s", "item_id"])
    op.create_table(
        "item_counts",
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("items", sa.BigInteger(), server_default="0", nullable=False),
        _time("last_s"),
        sa.PrimaryKeyConstraint("kind", "state"),
    )
    op.create_table(
        "halts",
        sa.Column("kind", _TEXT, nullable=False),
        _text("who"),
        _time("at_s"),
        sa.PrimaryKeyConstraint("kind"),
    )


def _nodes() -> None:
    for column in (
        sa.Column("draining", sa.Boolean(), server_default=sa.false(), nullable=False),
        _time("lost_s"),
        _time("left_s"),
        sa.Column("problems", sa.JSON(), server_default="[]", nullable=False),
    ):
        op.add_column("nodes", column)


def _studies() -> None:
    for column in (_text("modalities"), _text("source"), _time("sealed_s")):
        op.add_column("studies", column)
    op.create_index("ix_series_modality", "series", ["modality", "study_uid"])
    op.add_column(
        "series", sa.Column("manifest_bytes", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.create_index(
        "ix_studies_unsealed",
        "studies",
        ["last_received_s"],
        sqlite_where=_UNSEALED,
        postgresql_where=_UNSEALED,
    )


def _fill() -> None:
    bind = op.get_bind()
    bind.execute(
        sa.text(
            "INSERT INTO item_counts (kind, state, items, last_s) "
            "SELECT kind, state, COUNT(*), MAX(updated_s) FROM work_items GROUP BY kind, state"
        )
    )
    bind.execute(
        sa.text(
            "UPDATE studies SET source = COALESCE((SELECT source FROM instances "
            "WHERE instances.study_uid = studies.study_uid ORDER BY received_at_s LIMIT 1), '')"
        )
    )
    bind.execute(
        sa.text(
            "UPDATE work_items SET "
            "patient_id = COALESCE((SELECT patient_id FROM studies "
            "WHERE studies.study_uid = work_items.study_uid), ''), "
            "ae_title = COALESCE((SELECT source FROM studies "
            "WHERE studies.study_uid = work_items.study_uid), '')"
        )
    )
    found: dict[str, list[str]] = {}
    rows = bind.execute(
        sa.text("SELECT DISTINCT study_uid, modality FROM series WHERE modality <> ''")
    )
    for uid, modality in rows:
        found.setdefault(uid, []).append(modality)
    if found:
        bind.execute(
            sa.text("UPDATE studies SET modalities = :modalities WHERE study_uid = :uid"),
            [
                {"uid": uid, "modalities": "\\" + "\\".join(sorted(names)) + "\\"}
                for uid, names in found.items()
            ],
        )
