"""Tables of the work queue; ``schema`` holds the others and names these as well."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index.columns import TEXT, count_, id_, metadata, text_, time_

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
    id_("item_id"),
    text_("kind"),
    text_("study_uid"),
    count_("generation"),
    text_("state"),
    count_("priority"),
    time_("due_s"),
    count_("attempt"),
    text_("token"),
    count_("epoch"),
    text_("node"),
    text_("wanted_node"),
    time_("expires_at_s"),
    time_("created_s"),
    time_("updated_s"),
    time_("started_s"),
    time_("finished_s"),
    text_("error"),
    text_("note"),
    count_("deaths"),
    text_("patient_id"),
    text_("ae_title"),
    sa.Column("payload", sa.JSON, nullable=False, server_default="{}"),
    # Its row of item_facets.
    count_("facet_id"),
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
    sa.Index("ix_work_items_facet", "facet_id", "item_id", "created_s", "updated_s"),
    sa.Index("ix_work_items_created", "created_s", "facet_id", "updated_s"),
    sa.Index("ix_work_items_updated", "updated_s", "facet_id"),
    sa.Index("ix_work_items_bound", "wanted_node", sqlite_where=_BOUND, postgresql_where=_BOUND),
    sa.Index(
        "ix_work_items_error",
        *("error", "facet_id", "created_s", "updated_s"),
        sqlite_where=_ERROR,
        postgresql_where=_ERROR,
    ),
)

# What the task list filters by and few values of which exist: the combinations there are, and how
# many items have each. So any filter on them is counted, and found, without reading items.
item_facets = sa.Table(
    "item_facets",
    metadata,
    id_("facet_id"),
    text_("kind"),
    text_("state"),
    text_("node"),
    text_("ae_title"),
    count_("priority"),
    count_("items"),
    sa.Index("ux_item_facets", "kind", "state", "node", "ae_title", "priority", unique=True),
)

# How many items of a kind are in a state: what the task list and the status say at once.
item_counts = sa.Table(
    "item_counts",
    metadata,
    sa.Column("kind", TEXT, primary_key=True),
    sa.Column("state", TEXT, primary_key=True),
    count_("items"),
    # When an item of the kind last came into the state.
    time_("last_s"),
)

# Kinds of work that are halted; kind '' is the whole queue.
halts = sa.Table(
    "halts",
    metadata,
    sa.Column("kind", TEXT, primary_key=True),
    text_("who"),
    time_("at_s"),
)

# Attempts whose lease ended without a report: what they wrote is swept from web tiers.
dead_attempts = sa.Table(
    "dead_attempts",
    metadata,
    sa.Column("token", TEXT, primary_key=True),
    text_("study_uid"),
    time_("died_s"),
    time_("next_sweep_s"),
    count_("sweeps"),
)
