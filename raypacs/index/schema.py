"""Tables of the index (SQLAlchemy Core), the same on SQLite and PostgreSQL.

Times are seconds since the Unix epoch in UTC (``_s``), sizes bytes (``_bytes``). Text columns are
never NULL: '' means unknown. A change here needs a migration in ``migrations/versions``; a test
compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index.autopilot_schema import containers as containers
from raypacs.index.autopilot_schema import copy_totals as copy_totals
from raypacs.index.autopilot_schema import forecasts as forecasts
from raypacs.index.autopilot_schema import levels as levels
from raypacs.index.columns import TEXT as TEXT
from raypacs.index.columns import count_, flag_, id_, text_, time_
from raypacs.index.columns import metadata as metadata
from raypacs.index.erase_schema import erased as erased
from raypacs.index.erase_schema import erasure_places as erasure_places
from raypacs.index.erase_schema import erasures as erasures
from raypacs.index.queue_schema import dead_attempts as dead_attempts
from raypacs.index.queue_schema import halts as halts
from raypacs.index.queue_schema import item_counts as item_counts
from raypacs.index.queue_schema import item_facets as item_facets
from raypacs.index.queue_schema import work_items as work_items

# Single values: the epoch, the key of the statistics' pseudonyms, the last hourly sample.
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False, server_default="0"),
    text_("value"),
    time_("at_s"),
)

_PINNED = sa.text("pinned_until_s > 0")
_DELETE_AFTER = sa.text("delete_after_s > 0")
_JUDGE = sa.text("judge_due_s > 0")
_PLANNED = sa.text("token <> ''")
_LISTED = sa.text("what = 'listed'")
_WEB_WANTED = sa.text("web_evicted_s < 0")
_GROWN_AWAY = sa.text("offline_s > 0 AND sealed_s = 0")
_UNSEALED = sa.text("state = 'prepared' AND sealed_s = 0")

# ``generation`` grows with every batch that brings new instances; ``prepare_due_s`` is when the
# study counts as quiet (NULL: nothing new since the last item was made for it).
studies = sa.Table(
    "studies",
    metadata,
    sa.Column("study_uid", TEXT, primary_key=True),
    text_("patient_id"),
    text_("patient_name_folded"),
    text_("study_date"),
    text_("accession_number"),
    sa.Column("attributes", sa.JSON, nullable=False),
    text_("state"),
    count_("generation"),
    sa.Column("prepare_due_s", sa.Double),
    count_("series_count"),
    count_("instance_count"),
    count_("size_bytes"),
    count_("prepared_count"),
    count_("transcoded_count"),
    count_("proven_count"),
    count_("raw_bytes"),
    count_("prepared_bytes"),
    time_("prepare_seconds"),
    time_("created_s"),
    time_("last_received_s"),
    time_("prepared_s"),
    time_("accessed_s"),
    # Modalities in Study (0008,0061), sorted, each between backslashes: \\CT\\SR\\
    text_("modalities"),
    # Who sent the study first: calling AE title, or other door.
    text_("source"),
    # When its instances became manifests; 0 while they are rows.
    time_("sealed_s"),
    # Its place in the list of studies, by study date (``listing``).
    count_("list_no"),
    # new, dictated, reported or approved, and since when.
    sa.Column("status", TEXT, nullable=False, server_default="new"),
    time_("status_s"),
    flag_("exported"),
    flag_("his_verified"),
    # Instances are under storage commitment.
    flag_("committed"),
    # Whether it is to be archived: False only where all its sources have that switched off.
    sa.Column("archiving", sa.Boolean, nullable=False, server_default=sa.true()),
    # Not evicted before; 0: not pinned.
    time_("pinned_until_s"),
    # Of the study it was prefetched for; effective is the later one.
    time_("inherited_accessed_s"),
    time_("inherited_created_s"),
    # When instances of it left the image tiers; 0: they are there.
    time_("offline_s"),
    # When a rule deletes it; 0: none does.
    time_("delete_after_s"),
    # When its packs left the web caches; -1: it was accessed since and is to be prepared again.
    time_("web_evicted_s"),
    # Distinct [source, peer] that sent instances of it.
    sa.Column("origins", sa.JSON, nullable=False, server_default="[]"),
    # What rules and sources decided about it, by effect; and when they are asked next (0: not).
    sa.Column("decided", sa.JSON, nullable=False, server_default="{}"),
    time_("judge_due_s"),
    sa.Index("ix_studies_prepare_due", "prepare_due_s"),
    sa.Index("ix_studies_patient_id", "patient_id"),
    sa.Index("ux_studies_list_no", "list_no", unique=True),
    sa.Index("ix_studies_accession", "accession_number"),
    sa.Index("ix_studies_accessed", "accessed_s"),
    sa.Index("ix_studies_created", "created_s"),
    sa.Index("ix_studies_pinned", "pinned_until_s", sqlite_where=_PINNED, postgresql_where=_PINNED),
    sa.Index(
        "ix_studies_delete_after",
        "delete_after_s",
        sqlite_where=_DELETE_AFTER,
        postgresql_where=_DELETE_AFTER,
    ),
    sa.Index("ix_studies_judge", "judge_due_s", sqlite_where=_JUDGE, postgresql_where=_JUDGE),
    sa.Index("ix_studies_status", "status", "list_no"),
    sa.Index("ix_studies_patient_list", "patient_id", "list_no"),
    sa.Index(
        "ix_studies_grown_away",
        "offline_s",
        sqlite_where=_GROWN_AWAY,
        postgresql_where=_GROWN_AWAY,
    ),
    sa.Index(
        "ix_studies_web_wanted",
        "study_uid",
        sqlite_where=_WEB_WANTED,
        postgresql_where=_WEB_WANTED,
    ),
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
    count_("studies"),
    count_("instance_count"),
    count_("prepared_count"),
    count_("size_bytes"),
    count_("prepared_bytes"),
)

DERIVED = (study_totals, copy_totals)
"""Tables that the database itself fills."""

# ``manifest_path`` is empty while the instances of the series are rows; ``gone_path``: the manifest
# whose instances left the image tiers, so they are away while it is the one in force.
series = sa.Table(
    "series",
    metadata,
    sa.Column("study_uid", TEXT, primary_key=True),
    sa.Column("series_uid", TEXT, primary_key=True),
    text_("modality"),
    sa.Column("series_number", sa.BigInteger),
    sa.Column("attributes", sa.JSON, nullable=False),
    count_("instance_count"),
    count_("size_bytes"),
    text_("manifest_tier"),
    text_("manifest_path"),
    count_("manifest_bytes"),
    time_("created_s"),
    text_("gone_path"),
    sa.Index("ix_series_uid", "series_uid"),
    sa.Index("ix_series_modality", "modality", "study_uid"),
    sa.Index("ix_series_manifest", "manifest_tier", "study_uid"),
)

# One row per stored instance, with what PREPARE made of it (``form`` '' = not prepared yet).
instances = sa.Table(
    "instances",
    metadata,
    sa.Column("sop_instance_uid", TEXT, primary_key=True),
    text_("study_uid"),
    text_("series_uid"),
    text_("sop_class_uid"),
    text_("transfer_syntax_uid"),
    text_("tier"),
    text_("path"),
    count_("size_bytes"),
    text_("sha256"),
    count_("dataset_offset_bytes"),
    text_("source"),
    time_("received_at_s"),
    text_("modality"),
    sa.Column("instance_number", sa.BigInteger),
    count_("rows"),
    count_("columns"),
    count_("frames"),
    count_("samples"),
    count_("bits_allocated"),
    count_("bits_stored"),
    count_("high_bit"),
    count_("pixel_representation"),
    text_("photometric"),
    count_("planar_configuration"),
    count_("pixel_offset_bytes"),
    count_("pixel_length_bytes"),
    sa.Column("attributes", sa.JSON, nullable=False),
    count_("generation"),
    text_("form"),
    text_("reason"),
    text_("pack_token"),
    count_("raw_bytes"),
    count_("prepared_bytes"),
    text_("prepared_transfer_syntax_uid"),
    sa.Column("lossless_proven", sa.Boolean, nullable=False, server_default=sa.false()),
    text_("peer"),
    sa.Index("ix_instances_series", "study_uid", "series_uid"),
)

# Published packs of prepared series; a series that grew has several.
packs = sa.Table(
    "packs",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("pack_path", TEXT, primary_key=True),
    text_("study_uid"),
    text_("series_uid"),
    text_("token"),
    text_("header_path"),
    count_("pack_bytes"),
    count_("header_bytes"),
    count_("instance_count"),
    time_("created_s"),
    sa.Index("ix_packs_series", "series_uid"),
    sa.Index("ix_packs_study", "study_uid"),
)

# A study on a tier: how many objects and bytes of it lie there, up to which generation.
# ``accessed_s``: the study's effective access time; ``hold``: why it may not be evicted ('': it
# may), see ``holds``; ``archive_proven``: of a library, that it was read back whole at
# ``proven_s`` and has every instance of ``generation``.
copies = sa.Table(
    "copies",
    metadata,
    sa.Column("study_uid", TEXT, primary_key=True),
    sa.Column("tier", TEXT, primary_key=True),
    count_("objects"),
    count_("size_bytes"),
    count_("generation"),
    sa.Column("archive_proven", sa.Boolean, nullable=False, server_default=sa.false()),
    time_("created_s"),
    time_("accessed_s"),
    text_("hold"),
    time_("proven_s"),
    time_("verified_s"),
    # What a series share keeps of a study that left (B12).
    flag_("kept"),
    sa.Index("ix_copies_tier", "tier"),
    sa.Index("ix_copies_lru", "tier", "hold", "accessed_s", "study_uid"),
    sa.Index("ix_copies_age", "tier", "created_s"),
)

# Objects kept aside: conflicts and quarantined ones.
asides = sa.Table(
    "asides",
    metadata,
    id_("aside_id"),
    text_("outcome"),
    text_("tier"),
    text_("path"),
    count_("size_bytes"),
    text_("reason"),
    text_("source"),
    time_("received_at_s"),
    text_("study_uid"),
    text_("sop_instance_uid"),
    text_("sha256"),
    sa.Index("ux_asides_place", "tier", "path", unique=True),
    sa.Index("ix_asides_study", "study_uid"),
    sa.Index("ix_asides_content", "sop_instance_uid", "sha256"),
)

# Objects to delete: written before any byte goes, removed after it went. ``what`` 'listed': not the
# object at ``path``, but those instances on ``tier`` that the manifest at ``path`` on ``list_tier``
# lists. ``relies_on``: the library whose proof justifies it; ``begun_s``: bytes go since then.
# ``token``: the attempt that plans to write the object, and takes the intent back when it counts.
delete_intents = sa.Table(
    "delete_intents",
    metadata,
    id_("intent_id"),
    text_("study_uid"),
    text_("tier"),
    text_("path"),
    count_("size_bytes"),
    time_("due_s"),
    count_("epoch"),
    text_("what"),
    text_("list_tier"),
    text_("relies_on"),
    text_("token"),
    time_("begun_s"),
    # Of a listed one: how many objects, and when it was decided that they leave a cache.
    count_("objects"),
    time_("decided_s"),
    sa.Index("ix_delete_intents_due", "tier", "what", "due_s", "size_bytes"),
    sa.Index("ix_delete_intents_study", "study_uid"),
    sa.Index("ix_delete_intents_token", "token", sqlite_where=_PLANNED, postgresql_where=_PLANNED),
    sa.Index("ix_delete_intents_lists", "path", sqlite_where=_LISTED, postgresql_where=_LISTED),
)

# Studies that were deleted while their files stayed on an adopted tier: the next look there must
# not bring them back.
let_go = sa.Table(
    "let_go",
    metadata,
    sa.Column("study_uid", TEXT, primary_key=True),
    sa.Column("tier", TEXT, primary_key=True),
    time_("at_s"),
    text_("who"),
)

# Bytes per tier: used = durable and known here; capacity as last seen.
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    count_("used_bytes"),
    count_("capacity_bytes"),
    sa.Column("reachable", sa.Boolean, nullable=False, server_default=sa.true()),
    time_("seen_s"),
)

# Bytes promised to a holder (a node or one of its processes) and not yet registered by it.
grants = sa.Table(
    "grants",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("holder", TEXT, primary_key=True),
    count_("granted_bytes"),
    time_("updated_s"),
)

# What each tier took in per hour: the history behind fill rates.
hourly_intake = sa.Table(
    "hourly_intake",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("hour_s", sa.BigInteger, primary_key=True, autoincrement=False),
    count_("studies"),
    count_("objects"),
    count_("size_bytes"),
    # Restored, prefetched or migrated to it.
    count_("moved_bytes"),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("name", TEXT, primary_key=True),
    text_("boot"),
    sa.Column("info", sa.JSON, nullable=False),
    time_("joined_s"),
    time_("seen_s"),
    # Finishes what runs, gets nothing new; survives the node's restart.
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
    # When it was declared lost, or left in order; 0 while it is there.
    time_("lost_s"),
    time_("left_s"),
    # Why it gets no work, or not all of it: list of texts.
    sa.Column("problems", sa.JSON, nullable=False, server_default="[]"),
)

# Senders, by calling AE title or other door.
sources = sa.Table(
    "sources",
    metadata,
    sa.Column("source", TEXT, primary_key=True),
    count_("objects"),
    count_("size_bytes"),
    time_("first_s"),
    time_("last_s"),
)

settings = sa.Table(
    "settings",
    metadata,
    id_("version"),
    sa.Column("body", sa.JSON, nullable=False),
    text_("who"),
    time_("at_s"),
    count_("epoch"),
)

# The story of each study and of the cluster, in order. No patient attributes in ``detail``.
audit = sa.Table(
    "audit",
    metadata,
    id_("audit_id"),
    time_("at_s"),
    count_("epoch"),
    text_("event"),
    text_("study_uid"),
    count_("item_id"),
    text_("node"),
    text_("who"),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Index("ix_audit_study", "study_uid", "audit_id"),
)

# Statistics waiting to be written as Parquet; ``mark`` makes a row's file name its own even after
# the index was restored from a backup and numbers rows again.
outbox = sa.Table(
    "outbox",
    metadata,
    id_("outbox_id"),
    text_("stream"),
    time_("at_s"),
    text_("mark"),
    sa.Column("payload", sa.JSON, nullable=False),
)
