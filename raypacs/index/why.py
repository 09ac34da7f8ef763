"""Why a study is where it is: its audit events in order, each told in a sentence.

The sentence is made when it is asked for, from the event's own numbers: the audit holds facts, so
older events are told in today's words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from raypacs import moments
from raypacs.errors import NotFound
from raypacs.index import audit, tombstones, why_evicted
from raypacs.index.schema import studies
from raypacs.index.why_amounts import bytes_of, objects_of

_MOST_EVENTS = 10_000

_NAMES = ("at_s", "event", "node", "who", "item_id", "epoch", "detail")

Detail = Mapping[str, Any]


def why(conn: sa.Connection, study_uid: str) -> list[dict[str, Any]]:
    """Return the story of a study, also of a deleted one, in order.

    Of more than 10,000 events the oldest half and the newest, with an entry for those left out.

    Each has at_s, event, text, node, who, item_id, epoch, detail.

    Raises:
        NotFound: nothing is known of such a study.
    """
    events = audit.story(conn, study_uid, _MOST_EVENTS)
    if len(events) == _MOST_EVENTS:
        events = _shortened(conn, study_uid, events)
    if not events:
        at_s = tombstones.came_back(conn, [study_uid]).get(study_uid)
        events = [] if at_s is None else [{"event": "erased", "at_s": at_s}]
    if not events:
        raise NotFound(f"nothing is known of study {study_uid}", study_uid=study_uid)
    # Accesses are too many to be written down one by one; the last one is the study's.
    accessed_s = conn.execute(
        sa.select(studies.c.accessed_s).where(
            studies.c.study_uid == study_uid, studies.c.accessed_s > studies.c.created_s
        )
    ).scalar()
    if accessed_s is not None:
        before = sum(float(one["at_s"]) <= accessed_s for one in events)
        events.insert(before, {"event": "accessed", "at_s": accessed_s})
    blank = {"node": "", "who": "", "item_id": 0, "epoch": 0, "detail": {}}
    return [
        {**blank, **{name: one[name] for name in _NAMES if name in one}, "text": tell(one)}
        for one in events
    ]


def _shortened(
    conn: sa.Connection, study_uid: str, newest: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return how a study's story began and how it ended, where ``newest`` is not all of it."""
    left_out = audit.count(conn, study_uid) - len(newest)
    if left_out <= 0:
        return newest
    half = len(newest) // 2
    oldest = audit.beginning(conn, study_uid, half)
    gap = {"event": "left out", "at_s": oldest[-1]["at_s"], "detail": {"events": left_out}}
    return [*oldest, gap, *newest[half:]]


def tell(event: Mapping[str, Any]) -> str:
    """Return an event of the audit as a sentence; one that has no words of its own, as it is."""
    detail: Detail = event.get("detail") or {}
    words = _WORDS.get(str(event["event"]))
    told = (
        words({**detail, "at_s": event.get("at_s", 0.0)})
        if words
        else _plain(str(event["event"]), detail)
    )
    if event.get("node"):
        told += f", on node {event['node']}"
    if event.get("who"):
        told += f", asked by {event['who']}"
    return told


def _plain(name: str, detail: Detail) -> str:
    """Return name and values, as ``name: key value, key value``."""
    values = ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in detail.items())
    return f"{name}: {values}" if values else name


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{_value(number)} x {key}" for key, number in value.items())
    return str(value)


def _received(detail: Detail) -> str:
    sources = _value(detail.get("sources", ()))
    return (
        f"received {objects_of(detail)}, {bytes_of(detail.get('size_bytes'))}, "
        f"from {sources or '?'}"
        f" (generation {detail.get('generation', '?')})"
    )


def _aside(verb: str) -> Callable[[Detail], str]:
    def told(detail: Detail) -> str:
        return (
            f"{verb}: instance {detail.get('sop_instance_uid') or 'without a UID'} "
            f"from {detail.get('source') or '?'} is kept aside on {detail.get('tier', '?')}: "
            f"{detail.get('reason', '')}"
        )

    return told


def _scheduled(detail: Detail) -> str:
    told = f"{detail.get('kind', 'work')} scheduled for generation {detail.get('generation', '?')}"
    if detail.get("rule"):
        told += f": {detail['rule']}"
    return f"{told}, again after: {detail['after']}" if detail.get("after") else told


def _leased(detail: Detail) -> str:
    return f"attempt {detail.get('attempt', '?')} of {detail.get('kind', 'it')} began"


def _done(detail: Detail) -> str:
    made = f", {objects_of(detail)} made" if "objects" in detail else ""
    return f"{detail.get('kind', 'work')} done (attempt {detail.get('attempt', '?')}){made}"


def _warned(detail: Detail) -> str:
    return f"{_done(detail)}, with a WARNING: {detail.get('warning', '?')}"


def _sealed(detail: Detail) -> str:
    return (
        f"sealed: {detail.get('instances', '?')} instances of {detail.get('series', '?')} series "
        f"are in manifests of {bytes_of(detail.get('size_bytes'))}"
    )


def _reopened(detail: Detail) -> str:
    return f"opened again: {detail.get('instances', '?')} instances are rows of the index"


def _relocated(detail: Detail) -> str:
    lost = "/".join(str(part) for part in detail.get("lost", ()))
    return (
        f"instance {detail.get('sop_instance_uid')} was lost ({lost}) and received again, "
        f"on {detail.get('tier', '?')}"
    )


def _left_out(detail: Detail) -> str:
    return f"... {detail.get('events', '?')} events left out"


def _accessed(_: Detail) -> str:
    return "last accessed"


def _rescheduled(detail: Detail) -> str:
    told = f"{detail.get('kind', 'work')} rescheduled"
    due_s = float(detail.get("due_s") or 0.0)
    if due_s > float(detail["at_s"]):
        told += f" for {moments.told(due_s)}"
    if detail.get("wanted_node"):
        told += f", to run on node {detail['wanted_node']}"
    return f"{told} ({detail['note']})" if detail.get("note") else told


def _taken_off(detail: Detail) -> str:
    return f"{detail.get('kind', 'work')} taken off the task list; it was {detail.get('was', '?')}"


def _priority(detail: Detail) -> str:
    return f"{detail.get('kind', 'work')} has priority {detail.get('priority', '?')} now"


def _prepared(detail: Detail) -> str:
    if not detail.get("instances"):
        return f"nothing was left to prepare (attempt {detail.get('attempt', '?')})"
    raw, prepared = detail.get("raw_bytes") or 0, detail.get("prepared_bytes") or 0
    ratio = f", {raw / prepared:.2f} times smaller" if raw and prepared else ""
    proven = f"{detail['proven']} proven lossless, " if detail.get("proven") else ""
    copied = detail.get("copied") or 0
    rules = _value(detail.get("reasons") or {})
    why_copied = f" ({rules})" if rules else ""
    return (
        f"prepared {detail['instances']} instances into {_packs(detail)}: "
        f"{bytes_of(raw)} became {bytes_of(prepared)}{ratio}, "
        f"{proven}{copied} copied as received{why_copied}, "
        f"{float(detail.get('seconds') or 0):.1f} s of work (attempt {detail.get('attempt', '?')})"
    )


def _packs(detail: Detail) -> str:
    count = detail.get("packs", "?")
    told = f"{count} pack" if count == 1 else f"{count} packs"
    return f"{told} on {_value(detail['tiers'])}" if detail.get("tiers") else told


def _again(detail: Detail) -> str:
    delay_s = detail.get("delay_s")
    when = f"; again in {float(delay_s):.1f} s" if delay_s is not None else ""
    return f"attempt {detail.get('attempt', '?')} did not do it: {detail.get('error', '?')}{when}"


def _failed(detail: Detail) -> str:
    return f"FAILED after attempt {detail.get('attempt', '?')}: {detail.get('error', '?')}"


def _canceled(detail: Detail) -> str:
    reason = detail.get("error") or detail.get("why")
    told = f"{detail['kind']} CANCELED" if detail.get("kind") else "CANCELED"
    return f"{told}: {reason}" if reason else told


def _deleted(detail: Detail) -> str:
    told = f"deleted from every cache: {objects_of(detail)}, {bytes_of(detail.get('size_bytes'))}"
    if detail.get("by"):
        told += f", by {detail['by']}"
    stay = detail.get("stay")
    return f"{told}; {stay} adopted files stay where they are" if stay else told


def _status(detail: Detail) -> str:
    changes = (
        f"{name.replace('_', ' ')} {_flag(one['from'])} -> {_flag(one['to'])}"
        for name, one in detail.items()
        if isinstance(one, Mapping)
    )
    by = f", by {detail['by']}" if detail.get("by") else ""
    return ", ".join(changes) + by


def _flag(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else value


def _decided(detail: Detail) -> str:
    told = [
        f"{_EFFECTS.get(name, name)} {_effect(name, one['value'])} ({one['by']})"
        for name, one in (detail.get("effects") or {}).items()
    ]
    gone = [f"no more {_EFFECTS.get(name, name)}" for name in detail.get("no_more") or ()]
    return "decided: " + "; ".join([*told, *gone])


def _effect(name: str, value: Any) -> str:
    return moments.told(value) if name.endswith("_s") else _value(value)


def _archiving(detail: Detail) -> str:
    if detail.get("archiving"):
        return "is to be archived: not all of its senders have archiving off"
    return "is not to be archived: all of its senders have archiving off"


def _erased(_: Detail) -> str:
    return "erased: every copy and trace of it (`raypacs erase list`)"


def _not_deleted(detail: Detail) -> str:
    return f"not deleted, though {detail.get('by', 'a rule')} wants it: {detail.get('why', '?')}"


def _routes(detail: Detail) -> str:
    return (
        f"to be sent to {_value(detail.get('destinations', ()))} by {detail.get('by', 'a rule')}: "
        "this version sends nothing"
    )


_EFFECTS = {
    "route": "to be sent to",
    "compress": "prepared as",
    "keep_until_s": "pinned until",
    "tier": "on tier",
    "delete_after_s": "deleted after",
    "priority": "priority",
}

# What happened, by the audit's word for it.
_WORDS: dict[str, Callable[[Detail], str]] = {
    "left out": _left_out,
    "received": _received,
    "conflict": _aside("conflict with other bytes of the same instance"),
    "quarantined": _aside("quarantined"),
    "scheduled": _scheduled,
    "leased": _leased,
    "prepared": _prepared,
    "completed": _done,
    "warning": _warned,
    "sealed": _sealed,
    "reopened": _reopened,
    "relocated": _relocated,
    "accessed": _accessed,
    "scheduled for retry": _again,
    "failed": _failed,
    "canceled": _canceled,
    "rescheduled": _rescheduled,
    "item deleted": _taken_off,
    "priority": _priority,
    "deleted": _deleted,
    "erased": _erased,
    "not deleted": _not_deleted,
    "status": _status,
    "decided": _decided,
    "archiving": _archiving,
    "route wanted": _routes,
    "evicted": why_evicted.evicted,
    "evicted from web cache": why_evicted.evicted_from_web,
    "evicted without archive": why_evicted.forgotten,
    "taken back": why_evicted.taken_back,
    "pinned": why_evicted.pinned,
    "unpinned": why_evicted.unpinned,
    "purged": why_evicted.purged,
}
