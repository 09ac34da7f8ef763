"""Tables of erasures (FEATURES F12): orders, the objects under way, and what must not come back."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index.columns import TEXT, count_, id_, metadata, text_, time_

# An order to erase. ``subject``: the Study Instance UID or Patient ID while it runs, then ''.
# ``state``: deleting, checking, statistics, done. ``report``: the proof, once done.
erasures = sa.Table(
    "erasures",
    metadata,
    id_("erasure_id"),
    text_("what"),
    text_("subject"),
    text_("subject_key"),
    text_("state"),
    text_("who"),
    time_("ordered_s"),
    time_("finished_s"),
    sa.Column("progress", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("report", sa.JSON, nullable=False, server_default="{}"),
)

# Objects and studies of an erasure that is not done; a study has an empty tier and path.
erasure_places = sa.Table(
    "erasure_places",
    metadata,
    sa.Column("erasure_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("study_uid", TEXT, primary_key=True),
    sa.Column("tier", TEXT, primary_key=True),
    sa.Column("path", TEXT, primary_key=True),
    count_("size_bytes"),
    # '' to be done; 'stays' on an adopted tier; 'absent' looked for and not found.
    text_("state"),
)

# Studies that were erased, by hash: what was received before ``at_s`` does not come back.
erased = sa.Table(
    "erased",
    metadata,
    sa.Column("study_key", TEXT, primary_key=True),
    time_("at_s"),
    count_("erasure_id"),
)
