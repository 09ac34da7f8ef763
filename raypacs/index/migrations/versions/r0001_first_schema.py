"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Bytewise order on PostgreSQL too, whatever the database's locale.
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create every table."""
    _create_1()
    _create_2()
    _create_3()
    _create_4()
    _create_5()
    _create_6()
    _create_7()
    _create_8()
    _create_9()


def downgrade() -> None:
    """Drop every table."""
    for name in sa.inspect(op.get_bind()).get_table_names():
        if name != "alembic_version":
            op.drop_table(name)


def _create_1() -> None:
    op.create_table(
        "asides",
        sa.Column(
            "aside_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("outcome", _TEXT, server_default="", nullable=False),
        sa.Column("tier", _TEXT, server_default="", nullable=False),
        sa.Column("path", _TEXT, server_default="", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reason", _TEXT, server_default="", nullable=False),
        sa.Column("source", _TEXT, server_default="", nullable=False),
        sa.Column("received_at_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("study_uid", _TEXT, server_default="", nullable=False),
        sa.Column("sop_instance_uid", _TEXT, server_default="", nullable=False),
        sa.Column("sha256", _TEXT, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("aside_id"),
    )
    op.create_index("ix_asides_study", "asides", ["study_uid"], unique=False)
    op.create_index("ux_asides_place", "asides", ["tier", "path"], unique=True)
    op.create_table(
        "audit",
        sa.Column(
            "audit_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("at_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("event", _TEXT, server_default="", nullable=False),
        sa.Column("study_uid", _TEXT, server_default="", nullable=False),
        sa.Column("item_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("node", _TEXT, server_default="", nullable=False),
        sa.Column("who", _TEXT, server_default="", nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id"),
    )
    op.create_index("ix_audit_study", "audit", ["study_uid", "audit_id"], unique=False)


def _create_2() -> None:
    op.create_table(
        "copies",
        sa.Column("study_uid", _TEXT, nullable=False),
        sa.Column("tier", _TEXT, nullable=False),
        sa.Column("objects", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("archive_proven", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("study_uid", "tier"),
    )
    op.create_index("ix_copies_tier", "copies", ["tier"], unique=False)
    op.create_table(
        "dead_attempts",
        sa.Column("token", _TEXT, nullable=False),
        sa.Column("study_uid", _TEXT, server_default="", nullable=False),
        sa.Column("died_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("next_sweep_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("sweeps", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("token"),
    )
    op.create_table(
        "delete_intents",
        sa.Column(
            "intent_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("study_uid", _TEXT, server_default="", nullable=False),
        sa.Column("tier", _TEXT, server_default="", nullable=False),
        sa.Column("path", _TEXT, server_default="", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("due_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("intent_id"),
    )
    op.create_index("ix_delete_intents_due", "delete_intents", ["tier", "due_s"], unique=False)
    op.create_index("ix_delete_intents_study", "delete_intents", ["study_uid"], unique=False)


def _create_3() -> None:
    op.create_table(
        "grants",
        sa.Column("tier", _TEXT, nullable=False),
        sa.Column("holder", _TEXT, nullable=False),
        sa.Column("granted_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tier", "holder"),
    )
    op.create_table(
        "hourly_intake",
        sa.Column("tier", _TEXT, nullable=False),
        sa.Column("hour_s", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("studies", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("objects", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tier", "hour_s"),
    )


def _create_4() -> None:
    op.create_table(
        "instances",
        sa.Column("sop_instance_uid", _TEXT, nullable=False),
        sa.Column("study_uid", _TEXT, server_default="", nullable=False),
        sa.Column("series_uid", _TEXT, server_default="", nullable=False),
        sa.Column("sop_class_uid", _TEXT, server_default="", nullable=False),
        sa.Column("transfer_syntax_uid", _TEXT, server_default="", nullable=False),
        sa.Column("tier", _TEXT, server_default="", nullable=False),
        sa.Column("path", _TEXT, server_default="", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("sha256", _TEXT, server_default="", nullable=False),
        sa.Column("dataset_offset_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("source", _TEXT, server_default="", nullable=False),
        sa.Column("received_at_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("modality", _TEXT, server_default="", nullable=False),
        sa.Column("instance_number", sa.BigInteger(), nullable=True),
        sa.Column("rows", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("columns", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("frames", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("samples", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bits_allocated", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bits_stored", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("high_bit", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pixel_representation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("photometric", _TEXT, server_default="", nullable=False),
        sa.Column("planar_configuration", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pixel_offset_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pixel_length_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("form", _TEXT, server_default="", nullable=False),
        sa.Column("reason", _TEXT, server_default="", nullable=False),
        sa.Column("pack_token", _TEXT, server_default="", nullable=False),
        sa.Column("raw_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prepared_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prepared_transfer_syntax_uid", _TEXT, server_default="", nullable=False),
        sa.Column("lossless_proven", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("sop_instance_uid"),
    )
    op.create_index("ix_instances_series", "instances", ["study_uid", "series_uid"], unique=False)


def _create_5() -> None:
    op.create_table(
        "ledger",
        sa.Column("tier", _TEXT, nullable=False),
        sa.Column("used_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("capacity_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reachable", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("seen_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tier"),
    )
    op.create_table(
        "meta",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("number", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("value", _TEXT, server_default="", nullable=False),
        sa.Column("at_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "nodes",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("boot", _TEXT, server_default="", nullable=False),
        sa.Column("info", sa.JSON(), nullable=False),
        sa.Column("joined_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("seen_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "outbox",
        sa.Column(
            "outbox_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("stream", _TEXT, server_default="", nullable=False),
        sa.Column("at_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("mark", _TEXT, server_default="", nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("outbox_id"),
    )


def _create_6() -> None:
    op.create_table(
        "packs",
        sa.Column("tier", _TEXT, nullable=False),
        sa.Column("pack_path", _TEXT, nullable=False),
        sa.Column("study_uid", _TEXT, server_default="", nullable=False),
        sa.Column("series_uid", _TEXT, server_default="", nullable=False),
        sa.Column("token", _TEXT, server_default="", nullable=False),
        sa.Column("header_path", _TEXT, server_default="", nullable=False),
        sa.Column("pack_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("header_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("instance_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tier", "pack_path"),
    )
    op.create_index("ix_packs_series", "packs", ["series_uid"], unique=False)
    op.create_index("ix_packs_study", "packs", ["study_uid"], unique=False)
    op.create_table(
        "series",
        sa.Column("study_uid", _TEXT, nullable=False),
        sa.Column("series_uid", _TEXT, nullable=False),
        sa.Column("modality", _TEXT, server_default="", nullable=False),
        sa.Column("series_number", sa.BigInteger(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("instance_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("manifest_tier", _TEXT, server_default="", nullable=False),
        sa.Column("manifest_path", _TEXT, server_default="", nullable=False),
        sa.Column("created_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("study_uid", "series_uid"),
    )
    op.create_index("ix_series_uid", "series", ["series_uid"], unique=False)
    op.create_table(
        "settings",
        sa.Column(
            "version",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("who", _TEXT, server_default="", nullable=False),
        sa.Column("at_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )


def _create_7() -> None:
    op.create_table(
        "sources",
        sa.Column("source", _TEXT, nullable=False),
        sa.Column("objects", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("first_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("last_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("source"),
    )


def _create_8() -> None:
    op.create_table(
        "studies",
        sa.Column("study_uid", _TEXT, nullable=False),
        sa.Column("patient_id", _TEXT, server_default="", nullable=False),
        sa.Column("patient_name_folded", _TEXT, server_default="", nullable=False),
        sa.Column("study_date", _TEXT, server_default="", nullable=False),
        sa.Column("accession_number", _TEXT, server_default="", nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("state", _TEXT, server_default="", nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prepare_due_s", sa.Double(), nullable=True),
        sa.Column("series_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("instance_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prepared_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("transcoded_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("proven_count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("raw_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prepared_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prepare_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("created_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("last_received_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("prepared_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("accessed_s", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("study_uid"),
    )
    op.create_index("ix_studies_accessed", "studies", ["accessed_s"], unique=False)
    op.create_index("ix_studies_accession", "studies", ["accession_number"], unique=False)
    op.create_index("ix_studies_created", "studies", ["created_s"], unique=False)
    op.create_index("ix_studies_patient_id", "studies", ["patient_id"], unique=False)
    op.create_index("ix_studies_patient_name", "studies", ["patient_name_folded"], unique=False)
    op.create_index("ix_studies_prepare_due", "studies", ["prepare_due_s"], unique=False)
    op.create_index("ix_studies_study_date", "studies", ["study_date", "study_uid"], unique=False)


def _create_9() -> None:
    op.create_table(
        "work_items",
        sa.Column(
            "item_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("kind", _TEXT, server_default="", nullable=False),
        sa.Column("study_uid", _TEXT, server_default="", nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("state", _TEXT, server_default="", nullable=False),
        sa.Column("priority", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("due_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("attempt", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("token", _TEXT, server_default="", nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("node", _TEXT, server_default="", nullable=False),
        sa.Column("wanted_node", _TEXT, server_default="", nullable=False),
        sa.Column("expires_at_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("created_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("updated_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("started_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("finished_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("error", _TEXT, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("item_id"),
    )
    op.create_index(
        "ix_work_items_expiry",
        "work_items",
        ["expires_at_s"],
        unique=False,
        sqlite_where=sa.text("state = 'IN PROCESS'"),
        postgresql_where=sa.text("state = 'IN PROCESS'"),
    )
    op.create_index(
        "ix_work_items_next",
        "work_items",
        ["kind", "priority", "due_s"],
        unique=False,
        sqlite_where=sa.text("state IN ('SCHEDULED', 'SCHEDULED FOR RETRY')"),
        postgresql_where=sa.text("state IN ('SCHEDULED', 'SCHEDULED FOR RETRY')"),
    )
    op.create_index("ix_work_items_state", "work_items", ["state", "kind"], unique=False)
    op.create_index("ix_work_items_study", "work_items", ["study_uid"], unique=False)
    op.create_index(
        "ux_work_items_running",
        "work_items",
        ["kind", "study_uid"],
        unique=True,
        sqlite_where=sa.text("state = 'IN PROCESS'"),
        postgresql_where=sa.text("state = 'IN PROCESS'"),
    )
    op.create_index(
        "ux_work_items_waiting",
        "work_items",
        ["kind", "study_uid"],
        unique=True,
        sqlite_where=sa.text("state IN ('SCHEDULED', 'SCHEDULED FOR RETRY')"),
        postgresql_where=sa.text("state IN ('SCHEDULED', 'SCHEDULED FOR RETRY')"),
    )
