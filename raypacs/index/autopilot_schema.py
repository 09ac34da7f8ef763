"""Tables of the autopilot: library containers, sums of copies, levels, forecasts."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index.columns import TEXT, count_, metadata, text_, time_

_DAMAGED = sa.text("damaged <> ''")

# How many copies of a tier are held, and by what: kept by triggers on copies (migration 0007).
copy_totals = sa.Table(
    "copy_totals",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("hold", TEXT, primary_key=True),
    count_("copies"),
    count_("size_bytes"),
)

# One object of a library: a series in a container. ``generation``: that of the study it was made
# of; ``damaged``: why it cannot be relied on ('': it can).
containers = sa.Table(
    "containers",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("path", TEXT, primary_key=True),
    text_("study_uid"),
    text_("series_uid"),
    text_("token"),
    text_("form"),
    text_("sha256"),
    count_("size_bytes"),
    count_("instance_count"),
    count_("generation"),
    time_("created_s"),
    time_("verified_s"),
    text_("damaged"),
    sa.Index("ix_containers_study", "study_uid"),
    sa.Index("ix_containers_created", "tier", "created_s"),
    sa.Index("ix_containers_damaged", "tier", sqlite_where=_DAMAGED, postgresql_where=_DAMAGED),
)

# Green, amber or red, by tier: kept, as it has hysteresis.
levels = sa.Table(
    "levels",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    text_("level"),
    time_("since_s"),
    time_("at_s"),
    sa.Column("detail", sa.JSON, nullable=False, server_default="{}"),
)

# Forecasts of hours left, to be compared with what came; NULL: no such quantile.
forecasts = sa.Table(
    "forecasts",
    metadata,
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("at_s", sa.Double, primary_key=True),
    text_("method"),
    sa.Column("hours_p10", sa.Double),
    sa.Column("hours_p50", sa.Double),
    sa.Column("hours_p90", sa.Double),
    sa.Column("detail", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("error", sa.JSON, nullable=False, server_default="{}"),
    time_("scored_s"),
    sa.Index("ix_forecasts_scored", "scored_s", "at_s"),
)
