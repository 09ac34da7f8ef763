"""The end of an attempt: packs, new objects, its item, ledger, audit, statistics: all at once.

A report that was told twice (the answer was lost) changes nothing the second time: the item
still carries the attempt's token. Where the study grew meanwhile, another item becomes due for the
new instances.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from raypacs.index import (
    archiving,
    audit,
    deriving,
    holds,
    ledger,
    placing,
    restoring,
    sealing,
    settings,
)
from raypacs.index.endings import end
from raypacs.index.engine import Txn, changes, in_lists, insert
from raypacs.index.items import bury, clean, current, find, find_where, move, stale
from raypacs.index.queue import again_or_fail, cancel_each, unprepared_count
from raypacs.index.registration import count_copies
from raypacs.index.schema import instances, packs, studies, work_items
from raypacs.policy.kinds import PREPARE
from raypacs.policy.queue import WAITING, Event, State
from raypacs.policy.retry import Retry
from raypacs.records import Lease, PreparedInstance, PreparedSeries, WorkResult


def report(txn: Txn, lease: Lease, result: WorkResult, retry: Retry, chance: float) -> State:
    """Take over what an attempt did; return the item's state.

    Packs count even where the attempt failed on another series. An attempt that waits is not
    counted, so a full tier never fails a study.

    Raises:
        StaleLease: the lease is not the item's current one; nothing is changed, and what the
            attempt published is swept as a dead attempt's.
        StudySealed: it made objects of a study that must be reopened first; nothing is changed.
    """
    if (before := _reported_before(txn, lease, result)) is not None:
        return before
    item = current(txn, lease)
    result = replace(result, error=clean(result.error), warning=clean(result.warning))
    strangers = [pack for pack in result.packs if pack.study_uid != lease.study_uid]
    if strangers:
        raise stale(lease, f"it reports a pack of study {strangers[0].study_uid}")
    if result.packs:
        sealing.check_open(txn.conn, [lease.study_uid])
    deriving.check(txn.conn, lease, result.records)
    for pack in result.packs:
        _take_over(txn, pack, lease)
    deriving.take_over(txn, lease, result.records)
    archiving.take_over(txn, lease, result)
    refused = placing.take_over(txn, lease, result.moved) or restoring.take_over(txn, lease, result)
    if refused and not result.error:
        result = replace(result, error=refused)
    prepares = lease.kind == PREPARE
    error = result.error or (_left_out(txn, lease) if prepares else "")
    if error:
        state = _unfinished(txn, item, result, error, retry, chance)
    else:
        event = Event.WARN if result.warning else Event.COMPLETE
        state = move(txn, item, event, error=result.warning, deaths=0)
        audit.record(
            txn,
            "prepared" if prepares else state.value.lower(),
            study_uid=lease.study_uid,
            item_id=lease.item_id,
            node=lease.node,
            detail=_summary(lease, result),
        )
    if prepares:
        _follow_up(txn, lease)
    end(txn, lease.node, lease.token, due_s=txn.now)
    return state


def refuse(txn: Txn, lease: Lease, why: str, retry: Retry, chance: float) -> State:
    """End an attempt whose report cannot be taken over; return the item's state.

    It failed, and is tried again; what it published counts nowhere and is swept.

    Raises:
        StaleLease: the lease is not the item's current one; nothing is changed.
    """
    if (before := _reported_before(txn, lease, WorkResult())) is not None:
        return before
    item = current(txn, lease)
    bury(txn, [item])
    error = f"its report could not be taken over: {why}"
    return _unfinished(txn, item, WorkResult(error=error), error, retry, chance)


def _unfinished(
    txn: Txn, item: sa.RowMapping, result: WorkResult, error: str, retry: Retry, chance: float
) -> State:
    """Let an item that is not done wait for another try, or fail it."""
    delay_s: float | None
    if result.waits:
        delay_s = retry.wait_s(chance=chance)
        attempt = item["attempt"] - 1
        state = again_or_fail(txn, item, delay_s, error, waits=True, attempt=attempt, deaths=0)
    elif result.died:
        # Not buried, as an attempt is whose node died: packs of its that counted must stay.
        deaths = item["deaths"] + 1
        delay_s = retry.after_death_s(deaths, chance=chance)
        if deaths >= settings.read(txn.conn)[1].max_deaths:
            delay_s, error = None, f"{deaths} attempts in a row died; the last: {error}"
        attempt = item["attempt"] - 1
        state = again_or_fail(txn, item, delay_s, error, attempt=attempt, deaths=deaths)
    else:
        delay_s = retry.delay_s(item["attempt"], retryable=result.retryable, chance=chance)
        state = again_or_fail(txn, item, delay_s, error, deaths=0)
    event = "failed" if delay_s is None else "retry"
    told = {"event": event, "study_uid": item["study_uid"], "node": item["node"]}
    audit.publish(txn, "events", [told])
    return state


def _reported_before(txn: Txn, lease: Lease, result: WorkResult) -> State | None:
    """Return the item's state if this attempt's report was taken over already, else None.

    Also when another attempt runs by now: who hears StaleLease deletes what the attempt wrote,
    which must never happen to packs or objects that were taken over.
    """
    item = find(txn.conn, lease.item_id)
    # An item may have left the task list since; then its packs tell.
    state = State(item["state"]) if item is not None else State.COMPLETED
    if item is not None and item["token"] == lease.token:
        return None if state == State.IN_PROCESS else state
    packed = txn.conn.execute(
        sa.select(packs.c.token)
        .where(packs.c.study_uid == lease.study_uid, packs.c.token == lease.token)
        .limit(1)
    ).first()
    taken_over = (
        packed is not None
        or deriving.taken_over(txn.conn, result.records)
        or archiving.taken_over(txn.conn, lease, result.archived)
        or placing.taken_over(txn.conn, lease, result.moved)
        or restoring.taken_over(txn.conn, result)
    )
    return state if taken_over else None


def _left_out(txn: Txn, lease: Lease) -> str:
    """Say if the attempt left out instances that were there when the item was made."""
    count = txn.conn.execute(
        sa.select(sa.func.count())
        .select_from(instances)
        .where(
            instances.c.study_uid == lease.study_uid,
            instances.c.form == "",
            instances.c.tier != "",  # what is away is prepared once it is back
            instances.c.generation <= lease.generation,
        )
    ).scalar_one()
    return f"{count} instances were not prepared" if count else ""


def _take_over(txn: Txn, pack: PreparedSeries, lease: Lease) -> None:
    fresh = _mark(txn, pack)
    size = pack.pack_bytes + pack.header_bytes
    ledger.spend(txn, lease.node, {pack.tier: size})
    if not _list(txn, pack):
        size = 0  # its bytes are counted already
    else:
        copy = {
            "study_uid": pack.study_uid,
            "tier": pack.tier,
            "objects": len(pack.instances),
            "size_bytes": size,
            "generation": lease.generation,
            "created_s": txn.now,
        }
        count_copies(txn, [copy])
        holds.refresh(txn, [pack.study_uid])
    transcoded = [one for one in fresh if one.form != "copied"]
    txn.conn.execute(
        sa.update(studies)
        .where(studies.c.study_uid == pack.study_uid)
        .values(
            prepared_count=studies.c.prepared_count + len(fresh),
            transcoded_count=studies.c.transcoded_count + len(transcoded),
            proven_count=studies.c.proven_count + sum(one.lossless_proven for one in transcoded),
            raw_bytes=studies.c.raw_bytes + sum(one.raw_bytes for one in fresh),
            prepared_bytes=studies.c.prepared_bytes + size,
            prepare_seconds=studies.c.prepare_seconds + pack.seconds,
            prepared_s=txn.now,
            web_evicted_s=0.0,
        )
    )
    audit.publish(txn, "events", _statistics(txn, pack, lease, fresh))


def _list(txn: Txn, pack: PreparedSeries) -> bool:
    """List a pack; False where it is listed already, as it was adopted."""
    row = {
        "tier": pack.tier,
        "pack_path": pack.pack_path,
        "study_uid": pack.study_uid,
        "series_uid": pack.series_uid,
        "token": pack.token,
        "header_path": pack.header_path,
        "pack_bytes": pack.pack_bytes,
        "header_bytes": pack.header_bytes,
        "instance_count": len(pack.instances),
        "created_s": txn.now,
    }
    statement = insert(txn.conn, packs).values(row)
    keys = ["tier", "pack_path"]
    return changes(txn.conn, statement.on_conflict_do_nothing(index_elements=keys)) > 0


def _mark(txn: Txn, pack: PreparedSeries) -> list[PreparedInstance]:
    """Mark the pack's instances as prepared; return those that were not before."""
    told = {one.sop_instance_uid: one for one in pack.instances}
    fresh: list[PreparedInstance] = []
    for uids in in_lists(told):
        found = txn.conn.execute(
            sa.select(instances.c.sop_instance_uid).where(
                instances.c.sop_instance_uid.in_(uids),
                instances.c.study_uid == pack.study_uid,
                instances.c.form == "",
            )
        )
        fresh += [told[uid] for uid in found.scalars()]
    if fresh:
        txn.conn.execute(
            sa.update(instances)
            .where(instances.c.sop_instance_uid == sa.bindparam("uid"))
            .values(
                form=sa.bindparam("new_form"),
                reason=sa.bindparam("new_reason"),
                pack_token=pack.token,
                raw_bytes=sa.bindparam("raw"),
                prepared_bytes=sa.bindparam("prepared"),
                prepared_transfer_syntax_uid=sa.bindparam("syntax"),
                lossless_proven=sa.bindparam("proven"),
            ),
            [
                {
                    "uid": one.sop_instance_uid,
                    "new_form": one.form,
                    "new_reason": clean(one.reason),
                    "raw": one.raw_bytes,
                    "prepared": one.prepared_bytes,
                    "syntax": one.transfer_syntax_uid,
                    "proven": one.lossless_proven,
                }
                for one in fresh
            ],
        )
    return fresh


def _follow_up(txn: Txn, lease: Lease) -> None:
    """Settle the study when everything is prepared.

    What arrived while this item ran set ``prepare_due_s`` again: ``enqueue_due`` makes, or has
    made, the item for it.
    """
    ours = studies.c.study_uid == lease.study_uid
    if unprepared_count(txn.conn, lease.study_uid) == 0:
        _settle(txn, lease)
        txn.conn.execute(sa.update(studies).where(ours).values(state="prepared"))
        deriving.enqueue_wanted(txn, lease.study_uid, lease.generation)


def _settle(txn: Txn, lease: Lease) -> None:
    """Cancel what waits, or had failed, for instances that this attempt prepared as well."""
    others = find_where(
        txn.conn,
        work_items.c.kind == lease.kind,
        work_items.c.study_uid == lease.study_uid,
        work_items.c.state.in_([*WAITING, State.FAILED]),
    )
    cancel_each(txn, others, [f"item {lease.item_id} prepared everything"] * len(others))


def _summary(lease: Lease, result: WorkResult) -> dict[str, Any]:
    prepared = [one for pack in result.packs for one in pack.instances]
    told = {"kind": lease.kind, "attempt": lease.attempt, "generation": lease.generation}
    if lease.kind != PREPARE:
        if result.records:
            told["objects"] = len(result.records)
            told["size_bytes"] = sum(record.size_bytes for record in result.records)
        return told | ({"warning": result.warning} if result.warning else {})
    return told | {
        "packs": len(result.packs),
        "tiers": sorted({pack.tier for pack in result.packs}),
        "instances": len(prepared),
        "copied": sum(one.form == "copied" for one in prepared),
        "proven": sum(one.lossless_proven for one in prepared),
        "reasons": dict(Counter(one.reason for one in prepared if one.reason)),
        "raw_bytes": sum(one.raw_bytes for one in prepared),
        "prepared_bytes": sum(pack.pack_bytes + pack.header_bytes for pack in result.packs),
        "seconds": sum(pack.seconds for pack in result.packs),
    }


def _statistics(
    txn: Txn, pack: PreparedSeries, lease: Lease, fresh: list[PreparedInstance]
) -> list[dict[str, Any]]:
    """One event per form; header bytes and seconds are shared out by prepared bytes."""
    described: dict[str, Any] = {}
    for uids in in_lists(one.sop_instance_uid for one in fresh):
        found = txn.conn.execute(
            sa.select(
                instances.c.sop_instance_uid,
                instances.c.modality,
                instances.c.sop_class_uid,
                instances.c.size_bytes,
            ).where(instances.c.sop_instance_uid.in_(uids))
        )
        described |= {row.sop_instance_uid: row for row in found}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    total = sum(one.prepared_bytes for one in fresh) or 1
    for one in fresh:
        source = described[one.sop_instance_uid]
        row = rows.setdefault(
            (one.form, source.sop_class_uid),
            {
                "event": "prepared",
                "study_uid": pack.study_uid,
                "series_uid": pack.series_uid,
                "modality": source.modality,
                "sop_class_uid": source.sop_class_uid,
                "transfer_syntax_uid": one.transfer_syntax_uid,
                "node": lease.node,
                "tier": pack.tier,
                "form": one.form,
                "objects": 0,
                "frames": 0,
                "bytes_in": 0,
                "bytes_raw": 0,
                "bytes_prepared": 0,
                "seconds": 0.0,
            },
        )
        row["objects"] += 1
        row["frames"] += one.frames
        row["bytes_in"] += source.size_bytes
        row["bytes_raw"] += one.raw_bytes
        row["bytes_prepared"] += one.prepared_bytes
        row["seconds"] += pack.seconds * one.prepared_bytes / total
    return list(rows.values())
