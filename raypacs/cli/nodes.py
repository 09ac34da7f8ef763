"""Commands about the node on this host: up, down, status."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import raypacs
from raypacs import node_file
from raypacs.cli import node_process
from raypacs.cli.session import Json, Session, amount, columns, session_of
from raypacs.config import Bootstrap, parse
from raypacs.errors import AlreadyExists, NodeNotRunning

_COMPONENTS = ("ray", "pydicom", "pynetdicom", "imagecodecs", "SQLAlchemy", "pyarrow")


def up(
    context: typer.Context,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Go on in the background; return when ready.")
    ] = False,
    join: Annotated[
        str,
        typer.Option(
            "--join",
            metavar="HOST:PORT",
            help="Join the cluster whose head has this host and ray_port (as ray_address).",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Start the node of this data folder: Ray, the master, and this host's services."""
    session = session_of(context, as_json)
    bootstrap = session.bootstrap
    if join:
        values = {**bootstrap.model_dump(mode="json"), "ray_address": join}
        bootstrap = parse(Bootstrap, values, "--join")
    running = node_file.find(bootstrap)
    if running is not None:
        raise AlreadyExists(
            f"a node already runs on {bootstrap.data_dir} (pid {running.pid})",
            hint="`raypacs status` shows it, `raypacs down` stops it",
        )
    if not detach:
        # This process becomes the node: its signals, its exit code, nothing in between.
        sys.stdout.flush()
        command = node_process.command(*(["--json"] if session.json else []))
        os.execve(command[0], command, node_process.environment(bootstrap))
    with session.stderr.status("starting Ray and the services ..."):
        node, _ = node_process.start(bootstrap)
    session.emit(node.details, _whereabouts(node.details))


def down(
    context: typer.Context,
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait until it is gone.")
    ] = 90.0,
    as_json: Json = False,
) -> None:
    """Stop the node of this data folder and wait until all of it is gone."""
    session = session_of(context, as_json)
    node = node_file.find(session.bootstrap)
    if node is None:
        raise NodeNotRunning(
            f"no node runs on {session.bootstrap.data_dir}", hint="nothing to stop"
        )
    with session.stderr.status(f"stopping process {node.pid} ..."):
        node_process.stop(node, timeout_s=timeout_s)
    session.emit({"stopped": True, "pid": node.pid}, f"stopped (pid {node.pid})")


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show the cluster at a glance: nodes, caches with fill rate and hours left, the queue."""
    session = session_of(context, as_json)
    with session.client(patience_s=5.0) as client:
        told = client.status()
        told["url"] = client.url
        told["queue_state"] = client.queue_state()
    if session.json:
        session.emit(told)
        return
    _show_status(session, told)


def version(context: typer.Context, as_json: Json = False) -> None:
    """Show the version of raypacs and of what it stands on."""
    session = session_of(context, as_json)
    told = versions()
    table = columns("", "component", "version")
    for name, number in told.items():
        table.add_row(name, number)
    session.emit(told, table)


def versions() -> dict[str, str]:
    """Return name to version of raypacs and its main components."""
    told = {"raypacs": raypacs.__version__, "python": sys.version.split()[0]}
    return told | {name: metadata.version(name) for name in _COMPONENTS}


def _whereabouts(details: dict[str, Any]) -> str:
    lines = [f"raypacs is up (pid {details.get('pid')}); `raypacs down` stops it"]
    lines += [
        f"  {label:11}{details[key]}"
        for label, key in (
            ("web", "http_url"),
            ("DICOM", "dicom_port"),
            ("AE title", "ae_title"),
            ("dashboard", "dashboard_url"),
            ("data", "data_dir"),
        )
        if details.get(key)
    ]
    return "\n".join(lines)


def _show_status(session: Session, told: dict[str, Any]) -> None:
    master = told.get("master") or {}
    node = told.get("node") or (told.get("nodes") or [{}])[0]
    session.stdout.print(
        f"[bold]raypacs {told.get('version', '')}[/] at {told['url']}, "
        f"node {node.get('name', '?')}, DICOM port {node.get('dicom_port', '-')}, "
        f"epoch {told.get('epoch', '-')}, master {_master(master)}"
    )
    studies, instances = told.get("studies") or {}, told.get("instances") or {}
    session.stdout.print(
        "studies " + ", ".join(f"{number} {name}" for name, number in studies.items())
    )
    session.stdout.print(
        f"objects {instances.get('received', 0)} received ({amount(instances.get('size_bytes'))}), "
        f"{instances.get('prepared', 0)} prepared ({amount(instances.get('prepared_bytes'))})"
    )
    session.stdout.print(_tiers(told.get("tiers") or []))
    items = [
        f"{kind} {state.lower()}: {number}"
        for kind, states in (told.get("queue") or {}).items()
        for state, number in states.items()
    ]
    state = told["queue_state"]
    why = f" ({state['why']})" if state.get("why") else ""
    session.stdout.print(
        f"queue   {state['state']}{escape(why)}: {', '.join(items) or 'empty'}", highlight=False
    )
    for each in told.get("nodes") or []:
        roles = ", ".join(each.get("roles") or ())
        problems = "; ".join(each.get("problems") or ())
        session.stdout.print(
            f"node    {escape(str(each.get('name')))}  {each.get('state') or '-'}  "
            f"cores {each.get('cores')}  {roles}  {escape(problems)}",
            highlight=False,
        )


def _master(told: dict[str, Any]) -> str:
    if not told.get("pid"):
        return "away"
    return f"on {escape(told['node'])}, pid {told['pid']}" if told.get("node") else "up"


def _tiers(tiers: list[dict[str, Any]]) -> Table:
    numbers = frozenset({"capacity", "used", "free", "fill rate", "hours left"})
    table = columns("", "tier", "role", "level", "capacity", "used", "free", "fill rate",
                    "hours left", numbers=numbers)  # fmt: skip
    for tier in tiers:
        rate = (tier.get("fill_rate") or {}).get("bytes_per_hour")
        hours = tier.get("hours_p50")
        hours = tier.get("hours_left") if hours is None else hours
        table.add_row(
            tier["name"],
            tier["role"],
            tier.get("level") or "-",
            amount(tier.get("capacity_bytes")),
            amount(tier.get("used_bytes")),
            amount(tier.get("available_bytes")),
            f"{amount(rate)}/h" if rate else "-",
            f"{hours:,.1f}" if hours is not None else "not filling" if rate == 0 else "-",
        )
    return table
