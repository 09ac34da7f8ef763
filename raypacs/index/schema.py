"""Tables of the index (SQLAlchemy Core), the same on SQLite and PostgreSQL.

Times are seconds since the Unix epoch in UTC (``_s``), sizes bytes (``_bytes``). Text columns are
never NULL: '' means unknown. A change here needs a migration in ``migrations/versions``; a test
compares the two.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

# In order of bytes on both databases, whatever PostgreSQL's locale: LIKE with a prefix and ORDER
# BY then use the same indexes and give the same answers.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# SQLite numbers rows by itself only for the type INTEGER (which holds 64 bits there).
_ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _id(name: str) -> sa.Column[int]:
    return sa.Column(name, _ROW_ID, primary_key=True, autoincrement=True)


def _text(name: str, **options: Any) -> sa.Column[str]:
    return sa.Column(name, TEXT, nullable=False, server_default="", **options)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _time(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, server_default="0")


# Single values: the epoch, the key of the statistics' pseudonyms, the last hourly sample.
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, server_default="0"),
    _text("value"),
    _time("at_s"),
)

_UNSEALED = sa.text("state = 'prepared' AND sealed_s = 0")

# ``generation`` grows with every batch that brings new instances; ``prepare_due_s`` is when the
# study counts as quiet (NULL: nothing new since the last item was made for it).
studies = sa.Table(
    "studies",
    metadata,
    sa.Column("study_uid", TEXT, primary_key=True),
    _text("patient_id"),
    _text("patient_name_folded"),
    _text("study_date"),
    _text("accession_number"),
    sa.Column("attributes", sa.JSON, nullable=False),
    _text("state"),
    _count("generation"),
    sa.Column("prepare_due_s", sa.Double),
    _count("series_count"),
    _count("instance_count"),
    _count("size_bytes"),
    _count("prepared_count"),
    _count("transcoded_count"),
    _count("proven_count"),
    _count("raw_bytes"),
    _count("prepared_bytes"),
    _time("prepare_seconds"),
    _time("created_s"),
    _time("last_received_s"),
    _time("prepared_s"),
    _time("accessed_s"),
    # Modalities in Study (0008,0061), sorted, each between backslashes: \\CT\\SR\\
    _text("modalities"),
    # Who sent the study first: calling AE title, or other door.
    _text("source"),
    # When its instances became manifests; 0 while they are rows.
    _time("sealed_s"),
    # Its place in the list of studies, by study date (``listing``).
    _count("list_no"),
    sa.Index("ix_studies_prepare_due", "prepare_due_s"),
    sa.Index("ix_studies_patient_id", "patient_id"),
    sa.Index("ux_studies_list_no", "list_no", unique=True),
    sa.Index("ix_studies_accession", "accession_number"),
    sa.Index("ix_studies_accessed", "accessed_s"),
    sa.Index("ix_studies_created", "created_s"),
    sa.Index(
        "ix_studies_unsealed",
        "last_received_s",
        sqlite_where=_UNSEALED,
        postgresql_where=_UNSEALED,
    ),
)

# Modalities and parts of patient names to the studies that have them, in the order of the list.
study_terms = sa.Table(
    "study_terms",
    metadata,
    sa.Column("term", TEXT, primary_key=True),
    sa.Column("list_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

# Sums over the studies of a state: what ``status`` says at once. Kept by triggers on studies
# (migration 0004), whoever writes them; so never written, nor copied, by anybody else.
study_totals = sa.Table(
    "study_totals",
    metadata,
    sa.Column("state", TEXT, primary_key=True),
    _count("studies"),
    _count("instance_count"),
    _count("prepared_count"),
    _count("size_bytes"),
    _count("prepared_bytes"),
)

DERIVED = (study_totals,)
"""Tables that the database itself fills."""

# ``manifest_path`` is empty while the instances of the series are rows.
series = sa.Table(
    "series",
    metadata,
    sa.Column("study_uid", TEXT, primary_key=True),
    sa.Column("series_uid", TEXT, primary_key=True),
    _text("modality"),
    sa.Column("series_number", sa.BigInteger),
    sa.Column("attributes", sa.JSON, nullable=False),
    _count("instance_count"),
    _count("size_bytes"),
    _text("manifest_tier"),
    _text("manifest_path"),
    _count("manifest_bytes"),
    _time("created_s"),
    sa.Index("ix_series_uid", "series_uid"),
    sa.Index("ix_series_modality", "modality", "study_uid"),
)

# One row per stored instance, with what PREPARE made of it (``form`` '' = not prepared yet).
instances = sa.Table(
    "instances",
    metadata,
    sa.Column("sop_instance_uid", TEXT, primary_key=True),
    _text("study_uid"),
    _text("series_uid"),
    _text("sop_class_uid"),
    _text("transfer_syntax_uid"),
    _text("tier"),
    _text("path"),
    _count("size_bytes"),
    _text("sha256"),
    _count("dataset_offset_bytes"),
    _text("source"),
    _time("received_at_s"),
    _text("modality"),
    sa.Column("instance_number", sa.BigInteger),
    _count("rows"),
    _count("columns"),
    _count("frames"),
    _count("samples"),
    _count("bits_allocated"),
    _count("bits_stored"),
    _count("high_bit"),
    _count("pixel_representation"),
    _text("photometric"),
    _count("planar_configuration"),
    _count("pixel_offset_bytes"),
    _count("pixel_length_bytes"),
    sa.Column("attributes", sa.JSON, nullable=False),
    _count("generation"),
    _text("form"),
    _text("reason"),
    _text("pack_token"),
    _count("raw_bytes"),
    _count("prepared_bytes"),
    _text("prepared_transfer_syntax_uid"),
    sa.Column("lossless_proven", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_instances_series", "study_uid", "series_uid"),
)

# Published packs of prepared series; a series that grew has several.
packs = sa.Table(
    "packs",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("pack_path", TEXT, primary_key=True),
    _text("study_uid"),
    _text("series_uid"),
    _text("token"),
    _text("header_path"),
    _count("pack_bytes"),
    _count("header_bytes"),
    _count("instance_count"),
    _time("created_s"),
    sa.Index("ix_packs_series", "series_uid"),
    sa.Index("ix_packs_study", "study_uid"),
)

# A study on a tier: how many objects and bytes of it lie there, up to which generation.
copies = sa.Table(
    "copies",
    metadata,
    sa.Column("study_uid", TEXT, primary_key=True),
    sa.Column("tier", TEXT, primary_key=True),
    _count("objects"),
    _count("size_bytes"),
    _count("generation"),
    sa.Column("archive_proven", sa.Boolean, nullable=False, server_default=sa.false()),
    _time("created_s"),
    sa.Index("ix_copies_tier", "tier"),
)

# Objects kept aside: conflicts and quarantined ones.
asides = sa.Table(
    "asides",
    metadata,
    _id("aside_id"),
    _text("outcome"),
    _text("tier"),
    _text("path"),
    _count("size_bytes"),
    _text("reason"),
    _text("source"),
    _time("received_at_s"),
    _text("study_uid"),
    _text("sop_instance_uid"),
    _text("sha256"),
    sa.Index("ux_asides_place", "tier", "path", unique=True),
    sa.Index("ix_asides_study", "study_uid"),
    sa.Index("ix_asides_content", "sop_instance_uid", "sha256"),
)

_WAITING = sa.text("state IN ('SCHEDULED', 'SCHEDULED FOR RETRY')")
_RUNNING = sa.text("state = 'IN PROCESS'")
_BOUND = sa.text("wanted_node <> ''")
_ERROR = sa.text("error <> ''")

# The one work queue. ``token`` belongs to the attempt that holds or last reported the item;
# '' after the attempt was declared dead. ``node`` stays after the end, for the task list;
# ``wanted_node`` binds an item to a node. ``deaths`` counts attempts in a row whose node or
# dispatcher died. ``patient_id`` and ``ae_title`` are the study's, for the task list's filters;
# ``note`` says what happened to it beside its error (its node is gone, so any other).
work_items = sa.Table(
    "work_items",
    metadata,
    _id("item_id"),
    _text("kind"),
    _text("study_uid"),
    _count("generation"),
    _text("state"),
    _count("priority"),
    _time("due_s"),
    _count("attempt"),
    _text("token"),
    _count("epoch"),
    _text("node"),
    _text("wanted_node"),
    _time("expires_at_s"),
    _time("created_s"),
    _time("updated_s"),
    _time("started_s"),
    _time("finished_s"),
    _text("error"),
    _text("note"),
    _count("deaths"),
    _text("patient_id"),
    _text("ae_title"),
    sa.Column("payload", sa.JSON, nullable=False, server_default="{}"),
    # Its row of item_facets.
    _count("facet_id"),
    sa.Index(
        "ux_work_items_waiting",
        "kind",
        "study_uid",
        unique=True,
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    ),
    sa.Index(
        "ux_work_items_running",
        "kind",
        "study_uid",
        unique=True,
        sqlite_where=_RUNNING,
        postgresql_where=_RUNNING,
    ),
    sa.Index(
        "ix_work_items_next",
        "kind",
        "wanted_node",
        "priority",
        "due_s",
        "item_id",
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    ),
    sa.Index(
        "ix_work_items_expiry", "expires_at_s", sqlite_where=_RUNNING, postgresql_where=_RUNNING
    ),
    sa.Index("ix_work_items_due", "due_s", sqlite_where=_WAITING, postgresql_where=_WAITING),
    sa.Index("ix_work_items_held", "node", sqlite_where=_RUNNING, postgresql_where=_RUNNING),
    sa.Index("ix_work_items_study", "study_uid", "item_id"),
    sa.Index("ix_work_items_patient", "patient_id", "item_id"),
    sa.Index("ix_work_items_facet", "facet_id", "item_id"),
    sa.Index("ix_work_items_created", "created_s"),
    sa.Index("ix_work_items_updated", "updated_s"),
    sa.Index("ix_work_items_bound", "wanted_node", sqlite_where=_BOUND, postgresql_where=_BOUND),
    sa.Index("ix_work_items_error", "item_id", sqlite_where=_ERROR, postgresql_where=_ERROR),
)

# What the task list filters by and few values of which exist: the combinations there are, and how
# many items have each. So any filter on them is counted, and found, without reading items.
item_facets = sa.Table(
    "item_facets",
    metadata,
    _id("facet_id"),
    _text("kind"),
    _text("state"),
    _text("node"),
    _text("ae_title"),
    _count("priority"),
    _count("items"),
    sa.Index("ux_item_facets", "kind", "state", "node", "ae_title", "priority", unique=True),
)

# How many items of a kind are in a state: what the task list and the status say at once.
item_counts = sa.Table(
    "item_counts",
    metadata,
    sa.Column("kind", TEXT, primary_key=True),
    sa.Column("state", TEXT, primary_key=True),
    _count("items"),
    # When an item of the kind last came into the state.
    _time("last_s"),
)

# Kinds of work that are halted; kind '' is the whole queue.
halts = sa.Table(
    "halts",
    metadata,
    sa.Column("kind", TEXT, primary_key=True),
    _text("who"),
    _time("at_s"),
)

# Attempts whose lease ended without a report: what they wrote is swept from web tiers.
dead_attempts = sa.Table(
    "dead_attempts",
    metadata,
    sa.Column("token", TEXT, primary_key=True),
    _text("study_uid"),
    _time("died_s"),
    _time("next_sweep_s"),
    _count("sweeps"),
)

# Objects to delete: written before any byte goes, removed after it went.
delete_intents = sa.Table(
    "delete_intents",
    metadata,
    _id("intent_id"),
    _text("study_uid"),
    _text("tier"),
    _text("path"),
    _count("size_bytes"),
    _time("due_s"),
    _count("epoch"),
    sa.Index("ix_delete_intents_due", "tier", "due_s"),
    sa.Index("ix_delete_intents_study", "study_uid"),
)

# Bytes per tier: used = durable and known here; capacity as last seen.
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    _count("used_bytes"),
    _count("capacity_bytes"),
    sa.Column("reachable", sa.Boolean, nullable=False, server_default=sa.true()),
    _time("seen_s"),
)

# Bytes promised to a holder (a node or one of its processes) and not yet registered by it.
grants = sa.Table(
    "grants",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("holder", TEXT, primary_key=True),
    _count("granted_bytes"),
    _time("updated_s"),
)

# What each tier took in per hour: the history behind fill rates.
hourly_intake = sa.Table(
    "hourly_intake",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("hour_s", sa.BigInteger, primary_key=True, autoincrement=False),
    _count("studies"),
    _count("objects"),
    _count("size_bytes"),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    _text("boot"),
    sa.Column("info", sa.JSON, nullable=False),
    _time("joined_s"),
    _time("seen_s"),
    # Finishes what runs, gets nothing new; survives the node's restart.
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
    # When it was declared lost, or left in order; 0 while it is there.
    _time("lost_s"),
    _time("left_s"),
    # Why it gets no work, or not all of it: list of texts.
    sa.Column("problems", sa.JSON, nullable=False, server_default="[]"),
)

# Senders, by calling AE title or other door.
sources = sa.Table(
    "sources",
    metadata,
    sa.Column("source", TEXT, primary_key=True),
    _count("objects"),
    _count("size_bytes"),
    _time("first_s"),
    _time("last_s"),
)

settings = sa.Table(
    "settings",
    metadata,
    _id("version"),
    sa.Column("body", sa.JSON, nullable=False),
    _text("who"),
    _time("at_s"),
    _count("epoch"),
)

# The story of each study and of the cluster, in order. No patient attributes in ``detail``.
audit = sa.Table(
    "audit",
    metadata,
    _id("audit_id"),
    _time("at_s"),
    _count("epoch"),
    _text("event"),
    _text("study_uid"),
    _count("item_id"),
    _text("node"),
    _text("who"),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Index("ix_audit_study", "study_uid", "audit_id"),
)

# Statistics waiting to be written as Parquet; ``mark`` makes a row's file name its own even after
# the index was restored from a backup and numbers rows again.
outbox = sa.Table(
    "outbox",
    metadata,
    _id("outbox_id"),
    _text("stream"),
    _time("at_s"),
    _text("mark"),
    sa.Column("payload", sa.JSON, nullable=False),
)
