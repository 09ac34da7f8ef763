"""Library containers, proofs, holds and levels: what archiving, evicting and forecasting keep."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SUMS = ("copies", "size_bytes")

# As study_totals of 0004: SQLite drops triggers with their table.
_SQLITE_ADD = (
    "INSERT INTO copy_totals (tier, hold, copies, size_bytes) "
    "VALUES (NEW.tier, NEW.hold, 1, NEW.size_bytes) ON CONFLICT (tier, hold) DO UPDATE SET "
    "copies = copy_totals.copies + 1, size_bytes = copy_totals.size_bytes + excluded.size_bytes"
)
_SQLITE_TAKE = (
    "UPDATE copy_totals SET copies = copies - 1, size_bytes = size_bytes - OLD.size_bytes "
    "WHERE tier = OLD.tier AND hold = OLD.hold"
)
_POSTGRESQL = """
CREATE FUNCTION raypacs_copy_totals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    UPDATE copy_totals SET copies = copy_totals.copies - gone.copies,
      size_bytes = copy_totals.size_bytes - gone.size_bytes
    FROM (SELECT tier, hold, count(*) AS copies, sum(size_bytes) AS size_bytes
          FROM old_rows GROUP BY tier, hold) AS gone
    WHERE copy_totals.tier = gone.tier AND copy_totals.hold = gone.hold;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO copy_totals (tier, hold, copies, size_bytes)
    SELECT tier, hold, count(*), sum(size_bytes) FROM new_rows GROUP BY tier, hold
    ON CONFLICT (tier, hold) DO UPDATE SET copies = copy_totals.copies + excluded.copies,
      size_bytes = copy_totals.size_bytes + excluded.size_bytes;
  END IF;
  RETURN NULL;
END $$
"""


def upgrade() -> None:
    """Add columns and tables; what there is on image tiers is not archived yet."""
    for column in (
        sa.Column("status", _TEXT, server_default="new", nullable=False),
        _time("status_s"),
        _flag("exported"),
        _flag("his_verified"),
        _flag("committed"),
        sa.Column("archiving", sa.Boolean(), server_default=sa.true(), nullable=False),
        _time("pinned_until_s"),
        _time("inherited_accessed_s"),
        _time("inherited_created_s"),
        _time("offline_s"),
        _time("delete_after_s"),
        _time("web_evicted_s"),
        sa.Column("origins", sa.JSON(), server_default="[]", nullable=False),
        sa.Column("decided", sa.JSON(), server_default="{}", nullable=False),
        _time("judge_due_s"),
    ):
        op.add_column("studies", column)
    op.create_index(
        "ix_studies_pinned",
        "studies",
        ["pinned_until_s"],
        sqlite_where=sa.text("pinned_until_s > 0"),
        postgresql_where=sa.text("pinned_until_s > 0"),
    )
    op.create_index(
        "ix_studies_delete_after",
        "studies",
        ["delete_after_s"],
        sqlite_where=sa.text("delete_after_s > 0"),
        postgresql_where=sa.text("delete_after_s > 0"),
    )
    op.create_index(
        "ix_studies_judge",
        "studies",
        ["judge_due_s"],
        sqlite_where=sa.text("judge_due_s > 0"),
        postgresql_where=sa.text("judge_due_s > 0"),
    )
    op.create_index("ix_studies_status", "studies", ["status", "list_no"])
    op.create_index("ix_studies_patient_list", "studies", ["patient_id", "list_no"])
    op.create_index(
        "ix_studies_grown_away",
        "studies",
        ["offline_s"],
        sqlite_where=sa.text("offline_s > 0 AND sealed_s = 0"),
        postgresql_where=sa.text("offline_s > 0 AND sealed_s = 0"),
    )
    op.create_index(
        "ix_studies_web_wanted",
        "studies",
        ["study_uid"],
        sqlite_where=sa.text("web_evicted_s < 0"),
        postgresql_where=sa.text("web_evicted_s < 0"),
    )
    op.add_column("series", _text("gone_path"))
    op.add_column("instances", _text("peer"))
    for column in (_time("accessed_s"), _text("hold"), _time("proven_s"), _time("verified_s")):
        op.add_column("copies", column)
    op.add_column("copies", _flag("kept"))
    op.create_index("ix_copies_lru", "copies", ["tier", "hold", "accessed_s", "study_uid"])
    op.create_index("ix_copies_age", "copies", ["tier", "created_s"])
    op.create_index("ix_series_manifest", "series", ["manifest_tier", "study_uid"])
    for column in (_text("what"), _text("list_tier"), _text("relies_on"), _text("token")):
        op.add_column("delete_intents", column)
    op.add_column("delete_intents", _time("begun_s"))
    op.add_column("delete_intents", _count("objects"))
    op.add_column("delete_intents", _time("decided_s"))
    op.drop_index("ix_delete_intents_due", "delete_intents")
    op.create_index(
        "ix_delete_intents_due", "delete_intents", ["tier", "what", "due_s", "size_bytes"]
    )
    op.create_index(
        "ix_delete_intents_token",
        "delete_intents",
        ["token"],
        sqlite_where=sa.text("token <> ''"),
        postgresql_where=sa.text("token <> ''"),
    )
    op.create_index(
        "ix_delete_intents_lists",
        "delete_intents",
        ["path"],
        sqlite_where=sa.text("what = 'listed'"),
        postgresql_where=sa.text("what = 'listed'"),
    )
    op.add_column(
        "hourly_intake",
        sa.Column("moved_bytes", sa.BigInteger(), server_default="0", nullable=False),
    )
    _tables()
    op.execute(
        "UPDATE copies SET hold = 'unjudged', accessed_s = (SELECT accessed_s FROM studies "
        "WHERE studies.study_uid = copies.study_uid) WHERE EXISTS (SELECT 1 FROM studies "
        "WHERE studies.study_uid = copies.study_uid)"
    )
    op.execute(
        "INSERT INTO copy_totals (tier, hold, copies, size_bytes) "
        "SELECT tier, hold, count(*), sum(size_bytes) FROM copies GROUP BY tier, hold"
    )
    _triggers()


def _tables() -> None:
    op.create_table(
        "copy_totals",
        sa.Column("tier", _TEXT, primary_key=True),
        sa.Column("hold", _TEXT, primary_key=True),
        _count("copies"),
        _count("size_bytes"),
    )
    op.create_table(
        "containers",
        sa.Column("tier", _TEXT, primary_key=True),
        sa.Column("path", _TEXT, primary_key=True),
        _text("study_uid"),
        _text("series_uid"),
        _text("token"),
        _text("form"),
        _text("sha256"),
        _count("size_bytes"),
        _count("instance_count"),
        _count("generation"),
        _time("created_s"),
        _time("verified_s"),
        _text("damaged"),
    )
    op.create_index("ix_containers_study", "containers", ["study_uid"])
    op.create_index("ix_containers_created", "containers", ["tier", "created_s"])
    damaged = sa.text("damaged <> ''")
    op.create_index(
        "ix_containers_damaged",
        "containers",
        ["tier"],
        sqlite_where=damaged,
        postgresql_where=damaged,
    )
    op.create_table(
        "levels",
        sa.Column("tier", _TEXT, primary_key=True),
        _text("level"),
        _time("since_s"),
        _time("at_s"),
        sa.Column("detail", sa.JSON(), server_default="{}", nullable=False),
    )
    op.create_table(
        "forecasts",
        sa.Column("tier", _TEXT, primary_key=True),
        sa.Column("at_s", sa.Double(), primary_key=True),
        _text("method"),
        sa.Column("hours_p10", sa.Double()),
        sa.Column("hours_p50", sa.Double()),
        sa.Column("hours_p90", sa.Double()),
        sa.Column("detail", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("error", sa.JSON(), server_default="{}", nullable=False),
        _time("scored_s"),
    )
    op.create_index("ix_forecasts_scored", "forecasts", ["scored_s", "at_s"])
    _erasing()


def _erasing() -> None:
    op.create_table(
        "erasures",
        sa.Column(
            "erasure_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            primary_key=True,
        ),
        *(_text(name) for name in ("what", "subject", "subject_key", "state", "who")),
        _time("ordered_s"),
        _time("finished_s"),
        sa.Column("progress", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("report", sa.JSON(), server_default="{}", nullable=False),
    )
    op.create_table(
        "erasure_places",
        sa.Column("erasure_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("study_uid", _TEXT, primary_key=True),
        sa.Column("tier", _TEXT, primary_key=True),
        sa.Column("path", _TEXT, primary_key=True),
        _count("size_bytes"),
        _text("state"),
    )
    op.create_table(
        "erased",
        sa.Column("study_key", _TEXT, primary_key=True),
        _time("at_s"),
        _count("erasure_id"),
    )


def _triggers() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_POSTGRESQL)
        for event, tables in (
            ("insert", "NEW TABLE AS new_rows"),
            ("update", "OLD TABLE AS old_rows NEW TABLE AS new_rows"),
            ("delete", "OLD TABLE AS old_rows"),
        ):
            op.execute(
                f"CREATE TRIGGER copy_totals_{event} AFTER {event.upper()} ON copies "
                f"REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION raypacs_copy_totals()"
            )
        return
    for event, when, body in (
        ("insert", "INSERT", _SQLITE_ADD),
        ("update", "UPDATE OF tier, hold, size_bytes", f"{_SQLITE_TAKE}; {_SQLITE_ADD}"),
        ("delete", "DELETE", _SQLITE_TAKE),
    ):
        op.execute(f"CREATE TRIGGER copy_totals_{event} AFTER {when} ON copies BEGIN {body}; END")


def downgrade() -> None:
    """Take them away."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    for event in ("insert", "update", "delete"):
        op.execute(f"DROP TRIGGER copy_totals_{event}" + (" ON copies" if postgresql else ""))
    if postgresql:
        op.execute("DROP FUNCTION raypacs_copy_totals()")
    for table in (
        "erased",
        "erasure_places",
        "erasures",
        "forecasts",
        "levels",
        "containers",
        "copy_totals",
    ):
        op.drop_table(table)
    for name, table in (
        ("ix_delete_intents_lists", "delete_intents"),
        ("ix_delete_intents_token", "delete_intents"),
        ("ix_delete_intents_due", "delete_intents"),
        ("ix_series_manifest", "series"),
        ("ix_copies_age", "copies"),
        ("ix_copies_lru", "copies"),
        ("ix_studies_status", "studies"),
        ("ix_studies_patient_list", "studies"),
        ("ix_studies_grown_away", "studies"),
        ("ix_studies_judge", "studies"),
        ("ix_studies_web_wanted", "studies"),
        ("ix_studies_delete_after", "studies"),
        ("ix_studies_pinned", "studies"),
    ):
        op.drop_index(name, table)
    for table, names in (
        ("hourly_intake", ("moved_bytes",)),
        (
            "delete_intents",
            (*("what", "list_tier", "relies_on", "token", "begun_s", "objects"), "decided_s"),
        ),
        ("copies", ("accessed_s", "hold", "proven_s", "verified_s", "kept")),
        ("series", ("gone_path",)),
        ("instances", ("peer",)),
        (
            "studies",
            (
                *("status", "status_s", "exported", "his_verified", "committed", "archiving"),
                *("pinned_until_s", "inherited_accessed_s", "inherited_created_s", "offline_s"),
                *("delete_after_s", "origins", "decided", "judge_due_s", "web_evicted_s"),
            ),
        ),
    ):
        for name in names:
            op.drop_column(table, name)
    op.create_index("ix_delete_intents_due", "delete_intents", ["tier", "due_s"])


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, _TEXT, server_default="", nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _time(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double(), server_default="0", nullable=False)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False)
