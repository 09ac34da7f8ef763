"""Studies have a place in a list, terms that lead there, and sums that need no counting."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import sqlalchemy as sa
from alembic import op

from raypacs.index.listing import bounds, date_of, terms_of

revision = "0004"
down_revision = "0003"

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SUMS = ("studies", "instance_count", "prepared_count", "size_bytes", "prepared_bytes")
_BATCH = 1000

# SQLite drops triggers with their table: a migration that makes studies anew (batch mode) has to
# make them again.
_SQLITE_ADD = (
    "INSERT INTO study_totals (state, studies, instance_count, prepared_count, size_bytes, "
    "prepared_bytes) VALUES (NEW.state, 1, NEW.instance_count, NEW.prepared_count, "
    "NEW.size_bytes, NEW.prepared_bytes) ON CONFLICT (state) DO UPDATE SET "
    + ", ".join(f"{name} = study_totals.{name} + excluded.{name}" for name in _SUMS)
)
_SQLITE_TAKE = (
    "UPDATE study_totals SET studies = studies - 1, "
    + ", ".join(f"{name} = {name} - OLD.{name}" for name in _SUMS[1:])
    + " WHERE state = OLD.state"
)
# Once a statement: a thousand updates of one row in a transaction are slow on PostgreSQL.
_POSTGRESQL_SUMS = "count(*) AS studies, " + ", ".join(
    f"sum({name}) AS {name}" for name in _SUMS[1:]
)
_TAKEN = ", ".join(f"{name} = study_totals.{name} - gone.{name}" for name in _SUMS)
_ADDED = ", ".join(f"{name} = study_totals.{name} + excluded.{name}" for name in _SUMS)
_POSTGRESQL = f"""
CREATE FUNCTION raypacs_study_totals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    UPDATE study_totals SET {_TAKEN}
    FROM (SELECT state, {_POSTGRESQL_SUMS} FROM old_rows GROUP BY state) AS gone
    WHERE study_totals.state = gone.state;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO study_totals (state, {", ".join(_SUMS)})
    SELECT state, {_POSTGRESQL_SUMS} FROM new_rows GROUP BY state
    ON CONFLICT (state) DO UPDATE SET {_ADDED};
  END IF;
  RETURN NULL;
END $$
"""


def upgrade() -> None:
    """Number the studies there are, take down their terms, and count them."""
    op.add_column(
        "studies", sa.Column("list_no", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.create_table(
        "study_terms",
        sa.Column("term", _TEXT, nullable=False),
        sa.Column("list_no", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("term", "list_no"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "study_totals",
        sa.Column("state", _TEXT, nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False) for name in _SUMS),
        sa.PrimaryKeyConstraint("state"),
    )
    _fill()
    op.drop_index("ix_studies_patient_name", "studies")
    op.drop_index("ix_studies_study_date", "studies")
    op.create_index("ux_studies_list_no", "studies", ["list_no"], unique=True)
    _triggers()


def downgrade() -> None:
    """Take them away."""
    if op.get_bind().dialect.name == "postgresql":
        for event in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER study_totals_{event} ON studies")
        op.execute("DROP FUNCTION raypacs_study_totals()")
    else:
        for event in ("insert", "update", "delete"):
            op.execute(f"DROP TRIGGER study_totals_{event}")
    op.drop_index("ux_studies_list_no", "studies")
    op.create_index("ix_studies_study_date", "studies", ["study_date", "study_uid"])
    op.create_index("ix_studies_patient_name", "studies", ["patient_name_folded"])
    op.drop_table("study_totals")
    op.drop_table("study_terms")
    with op.batch_alter_table("studies") as batch:
        batch.drop_column("list_no")


def _fill() -> None:
    bind = op.get_bind()
    for rows in _numbered(bind):
        bind.execute(
            sa.text(
                "UPDATE studies SET list_no = :place, study_date = :date WHERE study_uid = :uid"
            ),
            [{"uid": uid, "date": date, "place": place} for uid, date, place, _ in rows],
        )
        terms = [
            {"term": term, "place": place} for _, _, place, found in rows for term in sorted(found)
        ]
        if terms:
            bind.execute(
                sa.text("INSERT INTO study_terms (term, list_no) VALUES (:term, :place)"), terms
            )
    bind.execute(
        sa.text(
            f"INSERT INTO study_totals (state, {', '.join(_SUMS)}) "
            f"SELECT state, COUNT(*), {', '.join(f'SUM({name})' for name in _SUMS[1:])} "
            "FROM studies GROUP BY state"
        )
    )


def _numbered(bind: sa.Connection) -> Iterator[list[tuple[str, str, int, set[str]]]]:
    """Yield batches of (study UID, study date, place, terms), in the order of the list."""
    found = bind.execute(
        sa.text("SELECT study_uid, study_date, patient_name_folded, modalities FROM studies")
    ).all()
    dated = sorted((date_of(date), uid, name, kinds) for uid, date, name, kinds in found)
    batch = []
    for date, studies in groupby(dated, key=lambda study: study[0]):
        first = bounds(date or "0", date or "0")[0] + 1
        for place, (_, uid, name, kinds) in enumerate(studies, first):
            batch.append((uid, date, place, terms_of(name, kinds)))
            if len(batch) == _BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _triggers() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_POSTGRESQL)
        for event, tables in (
            ("insert", "NEW TABLE AS new_rows"),
            ("update", "OLD TABLE AS old_rows NEW TABLE AS new_rows"),
            ("delete", "OLD TABLE AS old_rows"),
        ):
            op.execute(
                f"CREATE TRIGGER study_totals_{event} AFTER {event.upper()} ON studies "
                f"REFERENCING {tables} FOR EACH STATEMENT EXECUTE FUNCTION raypacs_study_totals()"
            )
        return
    columns = ", ".join(("state", *_SUMS[1:]))
    for event, when, body in (
        ("insert", "INSERT", _SQLITE_ADD),
        ("update", f"UPDATE OF {columns}", f"{_SQLITE_TAKE}; {_SQLITE_ADD}"),
        ("delete", "DELETE", _SQLITE_TAKE),
    ):
        op.execute(f"CREATE TRIGGER study_totals_{event} AFTER {when} ON studies BEGIN {body}; END")
