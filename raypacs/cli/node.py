"""Commands `node ...`: the nodes of the cluster and what each may do."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from raypacs.cli.session import Json, Session, columns, moment, session_of
from raypacs.client import Client
from raypacs.errors import RaypacsError

POLL_S = 0.5
_AT_REST = ("drained", "lost", "left", "refused")

Name = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")]

app = typer.Typer(help="The nodes of the cluster.", no_args_is_help=True)


@app.command(name="list")
def list_nodes(context: typer.Context, as_json: Json = False) -> None:
    """List the nodes: what each has, its state, and why it gets no work."""
    session = session_of(context, as_json)
    with session.client() as client:
        nodes = client.nodes()
    table = columns(
        "nodes of the cluster", "node", "state", "cores", "roles", "tiers", "version", "last seen",
        "problems", numbers=frozenset({"cores"}),
    )  # fmt: skip
    for node in nodes:
        table.add_row(
            escape(node["name"]),
            node["state"],
            str(node["cores"]),
            ", ".join(node["roles"]),
            escape(", ".join(node["tiers"])),
            node["version"],
            moment(node["seen_s"]),
            escape("; ".join(node["problems"])),
        )
    session.emit(nodes, table)


@app.command()
def show(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show all that is known of a node."""
    session = session_of(context, as_json)
    with session.client() as client:
        _emit(session, client.node(name))


@app.command()
def drain(
    context: typer.Context,
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Until nothing runs on it.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 3600.0,
    as_json: Json = False,
) -> None:
    """Let a node finish what runs and give it nothing new. It holds after the node's restart."""
    session = session_of(context, as_json)
    with session.client() as client:
        node = client.drain(name)
        if wait:
            node = _until_at_rest(client, name, timeout_s)
        _emit(session, node)


@app.command()
def undrain(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Give a drained node work again."""
    session = session_of(context, as_json)
    with session.client() as client:
        _emit(session, client.undrain(name))


def _until_at_rest(client: Client, name: str, timeout_s: float) -> dict[str, Any]:
    """Return the node when nothing runs on it. Raises RaypacsError: not within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while (node := client.node(name))["state"] not in _AT_REST:
        if time.monotonic() > deadline:
            raise RaypacsError(f"node {name} is still {node['state']} after {timeout_s:g} s")
        time.sleep(POLL_S)
    return node


def _emit(session: Session, node: dict[str, Any]) -> None:
    table = columns(f"node {escape(node['name'])}: {node['state']}", "", "value")
    for key, value in node.items():
        if value in ("", None, [], 0):
            continue
        shown = ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)
        table.add_row(key, escape(moment(value) if key.endswith("_s") else shown))
    session.emit(node, table)
