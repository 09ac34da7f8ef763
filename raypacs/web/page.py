"""The start page: caches, studies and queue as one small HTML text without other files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from raypacs import __version__
from raypacs.web.services import Row

_STYLE = """
:root{color-scheme:light dark;--line:#8886;--soft:#8882;--bar:#3b82c4}
body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:75rem;padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
.sub{opacity:.75}table{border-collapse:collapse;width:100%}
.wide{overflow-x:auto}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line)}
th{font-weight:600;background:var(--soft)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
meter{width:9rem}code{font-size:.85em}
.state{font-size:.9rem;font-weight:400;margin-left:.6rem}
.good{color:#2a8a4a}.quiet{color:#b07800}.bad{color:#d03030}
"""


@dataclass(frozen=True, slots=True)
class Lists:
    """What the page shows beside the status: studies, work items, nodes, the queue's state."""

    studies: Sequence[Row] = ()
    items: Sequence[Row] = ()
    nodes: Sequence[Row] = ()
    queue: Row = field(default_factory=dict)


def render(node: Row, status: Row, lists: Lists) -> str:
    """Return the page. Every value is escaped: descriptions come from strangers."""
    name = escape(str(node.get("name", "")))
    counts = status.get("studies") or {}
    summary = ", ".join(f"{escape(str(k))} {escape(str(v))}" for k, v in counts.items())
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>raypacs on {name}</title><style>{_STYLE}</style></head><body>"
        f"<h1>raypacs</h1><p class=sub>node {name}, version {escape(__version__)}, "
        f"epoch {escape(str(status.get('epoch', '')))}. Studies: {summary or 'none'}. "
        "DICOMweb root: <code>/dicom-web</code>, "
        "<a href='/api/v1/openapi.json'>REST API</a>, <a href='/api/v1/status'>status</a></p>"
        f"{_caches(status.get('tiers') or [])}{_nodes(lists.nodes, status)}"
        f"{_studies(lists.studies)}{_queue(lists)}</body></html>"
    )


def _table(heads: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]], empty: str) -> str:
    """Return a table; heads are (text, is a number); cells are HTML already."""
    head = "".join(f"<th{' class=n' if number else ''}>{text}</th>" for text, number in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if number else ''}>{cell}</td>"
            for cell, (_, number) in zip(row, heads, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    if not body:
        return f"<p class=sub>{empty}</p>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=wide>{table}</div>"


def _caches(tiers: Sequence[Row]) -> str:
    heads = [
        ("Cache", False),
        ("Role", False),
        ("Used", True),
        ("Capacity", True),
        ("", False),
        ("Hours left", True),
    ]
    rows = []
    for tier in tiers:
        used, capacity = tier.get("used_bytes") or 0, tier.get("capacity_bytes") or 0
        full = f"{used / capacity:.3f}" if capacity else "0"
        hours = tier.get("hours_left")
        rows.append(
            (
                escape(str(tier.get("name", ""))),
                escape(str(tier.get("role", ""))),
                size(used),
                size(capacity) if capacity else "",
                f"<meter value={full} low=.8 high=.9 optimum=0>{full}</meter>",
                f"{hours:.0f}" if isinstance(hours, int | float) else "not filling",
            )
        )
    return "<h2>Caches</h2>" + _table(heads, rows, "No caches yet.")


def _nodes(nodes: Sequence[Row], status: Row) -> str:
    master = (status.get("master") or {}).get("node", "")
    heads = [("Node", False), ("State", False), ("Cores", True), ("Roles", False), ("", False)]
    rows = [
        (
            _text(node, "name"),
            f"<span class={_mood(node.get('state'))}>{_text(node, 'state')}</span>",
            _text(node, "cores"),
            _text(node, "roles") + (", has the master" if node.get("name") == master else ""),
            _text(node, "problems"),
        )
        for node in nodes
    ]
    return "<h2>Nodes</h2>" + _table(heads, rows, "No node has joined yet.")


def _mood(state: Any) -> str:
    """Return the class of a state: good, quiet (as wanted) or bad."""
    if state in ("live", "running"):
        return "good"
    return "quiet" if state in ("draining", "drained", "left", "halting", "halted") else "bad"


def _studies(studies: Sequence[Row]) -> str:
    heads = [
        ("Study date", False),
        ("Patient", False),
        ("Description", False),
        ("Modalities", False),
        ("Series", True),
        ("Objects", True),
        ("", False),
    ]
    rows = []
    for row in studies:
        uid = escape(str(row.get("StudyInstanceUID", "")), quote=True)
        rows.append(
            (
                _text(row, "StudyDate"),
                _text(row, "PatientName").replace("^", " "),
                _text(row, "StudyDescription"),
                _text(row, "ModalitiesInStudy").replace("\\", ", "),
                _text(row, "NumberOfStudyRelatedSeries"),
                _text(row, "NumberOfStudyRelatedInstances"),
                f"<a href='/api/v1/studies/{uid}'>details</a> "
                f"<a href='/api/v1/studies/{uid}/why'>why</a>",
            )
        )
    return "<h2>Studies</h2>" + _table(heads, rows, "No studies yet: send some.")


def _queue(lists: Lists) -> str:
    heads = [
        ("Work", False),
        ("State", False),
        ("Study", False),
        ("Node", False),
        ("Tries", True),
        ("Error", False),
    ]
    rows = [
        (
            _text(item, "kind"),
            _text(item, "state"),
            f"<code>{_text(item, 'study_uid')}</code>",
            _text(item, "node"),
            _text(item, "attempt"),
            _text(item, "error") or _text(item, "note"),
        )
        for item in lists.items
    ]
    shown = time.strftime("%H:%M:%S UTC", time.gmtime())
    table = _table(heads, rows, "Nothing to do.")
    return f"<h2>Queue{_states(lists.queue)}</h2>{table}<p class=sub>as of {shown}</p>"


def _states(queue: Row) -> str:
    """Return the state of the queue and of the kinds that are in another one, with why."""
    states = [("", queue)] if queue.get("state") else []
    states += [
        (f"{name} ", kind)
        for name, kind in (queue.get("kinds") or {}).items()
        if kind.get("state") != queue.get("state")
    ]
    return "".join(
        f" <span class='state {_mood(one.get('state'))}'>{escape(name)}{_stands(one)}</span>"
        for name, one in states
    )


def _stands(one: Row) -> str:
    """Return state and why; a why that begins with the state says both."""
    state, why = _text(one, "state"), _text(one, "why")
    return why if why.startswith(state) else f"{state}: {why}" if why else state


def _text(row: Row, key: str) -> str:
    value: Any = row.get(key)
    if isinstance(value, list | tuple):
        value = ", ".join(str(one) for one in value)
    return escape("" if value is None else str(value))


def size(count: float) -> str:
    """Return bytes for people: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return ""
