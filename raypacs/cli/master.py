"""Commands `master status` and `master move`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from raypacs.cli.session import Json, columns, moment, session_of
from raypacs.client import Client
from raypacs.errors import MasterUnavailable

POLL_S = 0.25

app = typer.Typer(help="The one master of the cluster.", no_args_is_help=True)


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show the master: its node, process, epoch, since when, restarts."""
    session = session_of(context, as_json)
    with session.client() as client:
        told = client.master()
    table = columns(f"master: {told['state'] or 'up'}", "", "value")
    for key, value in told.items():
        if key != "state" and value not in ("", None):
            table.add_row(key, escape(moment(value) if key.endswith("_s") else str(value)))
    session.emit(told, table)


@app.command()
def move(
    context: typer.Context,
    to: Annotated[str, typer.Option(metavar="NODE", help="Default: any other node.")] = "",
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Let another node take the master over, and wait until it has. Work goes on meanwhile."""
    session = session_of(context, as_json)
    began = time.monotonic()
    with session.client() as client, session.stderr.status("the master moves ..."):
        ordered = client.move_master(to)
        told = _until_taken_over(client, ordered, timeout_s)
    told["seconds"] = round(time.monotonic() - began, 2)
    session.emit(
        told,
        f"node {escape(told['node'])} has the master after {told['seconds']:.1f} s "
        f"(epoch {told['epoch']}, pid {told['pid']})",
    )


def _until_taken_over(client: Client, ordered: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return the master when it is where it was ordered to.

    Raises:
        MasterUnavailable: not within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        told = client.master()
        if told["node"] == ordered["to"] and told["pid"]:
            return told
        if time.monotonic() > deadline:
            raise MasterUnavailable(
                f"the master is not on {ordered['to']} after {timeout_s:g} s; "
                f"it is on {told['node'] or 'no node'}",
                hint="`raypacs node list` shows if that node lives",
            )
        time.sleep(POLL_S)
