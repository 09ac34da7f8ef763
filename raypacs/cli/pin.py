"""Commands `pin` and `unpin`: studies that are kept from eviction."""

from __future__ import annotations

from typing import Annotated

import typer

from raypacs.cli import selection
from raypacs.cli.session import Json, columns, moment, session_of
from raypacs.cli.studies import StudyArgument
from raypacs.errors import ConfigError

_EVER_S = 253_402_300_799.0


def pin(
    context: typer.Context,
    study: Annotated[
        str, typer.Argument(metavar="[STUDY]", help="Study Instance UID.", show_default=False)
    ] = "",
    until: Annotated[
        str, typer.Option(help="Until when: ISO 8601 (local), or +7d. Default: for ever.")
    ] = "",
    show: Annotated[bool, typer.Option("--list", help="List what is pinned.")] = False,
    as_json: Json = False,
) -> None:
    """Keep a study from eviction. One that is about to leave stays."""
    session = session_of(context, as_json)
    if bool(study) == show:
        raise ConfigError("name a study, or ask for --list")
    with session.client() as client:
        if show:
            pins = client.pins()
            table = columns(f"{len(pins)} studies are pinned", "study", "until")
            for one in pins:
                table.add_row(one["study_uid"], _until(one["until_s"]))
            session.emit({"pins": pins}, table)
            return
        told = client.pin(study, selection.due_s(until) if until else None)
    session.emit(told, f"{study} is pinned: {_until(told['until_s'])}")


def unpin(context: typer.Context, study: StudyArgument, as_json: Json = False) -> None:
    """Take a study's pin away."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.unpin(study)
    session.emit(told, f"{study} is not pinned any more")


def _until(seconds: float) -> str:
    return "for ever" if seconds >= _EVER_S else f"until {moment(seconds)}"
