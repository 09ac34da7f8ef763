"""Command `why`: the whole story of a study."""

from __future__ import annotations

from typing import Any

import typer
from rich.markup import escape

from raypacs.cli.session import Json, columns, moment, session_of
from raypacs.cli.studies import StudyArgument


def why(context: typer.Context, study: StudyArgument, as_json: Json = False) -> None:
    """Tell the whole story of a study, in order: each step with its rule, node and numbers.

    Also of a study that was deleted. Times are local.
    """
    session = session_of(context, as_json)
    with session.client() as client:
        events = client.why(study)
    table = columns(f"study {study}: {len(events)} events", "when", "item", "epoch", "what")
    for event in events:
        table.add_row(*_row(event))
    session.emit({"study_uid": study, "events": events}, table)


def _row(event: dict[str, Any]) -> tuple[str, str, str, str]:
    item = str(event["item_id"]) if event.get("item_id") else ""
    return moment(event["at_s"]), item, str(event["epoch"]), escape(str(event["text"]))
