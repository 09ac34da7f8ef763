"""Queue, nodes and master in memory behind the ports of the web edge, with the master's events.

Only as clever as the tests need: states change as the transition table says, in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raypacs.errors import IllegalTransition, InvalidQuery, MasterUnavailable, NotFound
from raypacs.policy.queue import WAITING, Event, State, transition

Row = dict[str, Any]
PRIORITIES = {"low": 0, "medium": 10, "high": 20, "stat": 30}


def item(item_id: int, state: str = "SCHEDULED", **values: Any) -> Row:
    """A row of the task list."""
    return {
        "item_id": item_id,
        "kind": "PREPARE",
        "study_uid": f"1.2.{item_id}",
        "state": state,
        "priority": 10,
        "due_s": 0.0,
        "attempt": 1,
        "node": "n1",
        "wanted_node": "",
        "created_s": 1000.0 + item_id,
        "updated_s": 1000.0 + item_id,
        "error": "",
        "note": "",
        "payload": {},
        **values,
    }


def node(name: str, state: str = "live", **values: Any) -> Row:
    """A row of the nodes."""
    told = {"name": name, "state": state, "problems": [], "host": "127.0.0.1", "cores": 2}
    return {**told, "roles": ["master", "worker"], "version": "0.1.0", "seen_s": 1.0, **values}


@dataclass
class FakeCluster:
    """What operators see and change; ``events`` are those that reached the master, in order."""

    items: list[Row] = field(default_factory=list)
    nodes: list[Row] = field(default_factory=lambda: [node("n1"), node("n2")])
    halted: dict[str, str] = field(default_factory=dict)
    stories: dict[str, list[Row]] = field(default_factory=dict)
    master_node: str = "n1"
    epoch: int = 1
    away: bool = False
    events: list[tuple[str, tuple[Any, ...], Row]] = field(default_factory=list)
    during: Callable[[], None] = lambda: None
    """Called after every batch of an order."""

    def tasks(self, filters: Mapping[str, str], limit: int, offset: int, before_id: int) -> Row:
        found = [one for one in self._match(filters) if not before_id or one["item_id"] < before_id]
        found.sort(key=lambda one: -one["item_id"])
        return {
            "items": found[offset : offset + limit],
            "total": len(self._match(filters)),
            "total_is_exact": True,
        }

    def task(self, item_id: int) -> Row:
        for one in self.items:
            if one["item_id"] == item_id:
                return one
        raise NotFound(f"no work item {item_id}")

    def queue_state(self) -> Row:
        states = {}
        for kind in ("PREPARE", "VERIFY"):
            who = self.halted.get(kind) or self.halted.get("")
            why = f"halted by {who}" if who else ""
            states[kind] = {"state": "halted" if who else "running", "why": why, "counts": {}}
        who = self.halted.get("")
        state = {"state": "halted", "why": f"halted by {who}"} if who else {"state": "running"}
        return {"why": "", **state, "kinds": states}

    def why(self, study_uid: str) -> list[Row]:
        if study_uid not in self.stories:
            raise NotFound(f"nothing is known of study {study_uid}")
        return self.stories[study_uid]

    def status(self) -> Row:
        return {
            "epoch": self.epoch,
            "tiers": [],
            "nodes": self.nodes,
            "studies": {"received": 1},
            "master": {"state": "up", "node": self.master_node, "pid": 7, "restarts": 0},
        }

    def master(self, event: str, *args: Any, **named: Any) -> Any:
        """Run an event of the master."""
        if self.away:
            raise MasterUnavailable("the master did not answer")
        self.events.append((event, args, named))
        return getattr(self, event)(*args, **named)

    # Events, by the names that the master has

    def enqueue_item(self, kind: str, study_uid: str, **order: Any) -> int:
        for one in self.items:
            if (one["kind"], one["study_uid"]) == (kind, study_uid) and one["state"] in WAITING:
                return int(one["item_id"])
        order["priority"] = PRIORITIES[order["priority"]]
        order["due_s"] = order["due_s"] or 0.0
        made = item(1 + max((one["item_id"] for one in self.items), default=0), kind=kind, **order)
        self.items.append(made | {"study_uid": study_uid})
        return int(made["item_id"])

    def reschedule_items(
        self,
        filters: Row,
        *,
        due_s: float | None,
        nodes: list[str] | None,
        mode: str,
        done: int = 0,
        **batch: Any,
    ) -> Row:
        for name in nodes or ():
            self._node(name)
        targets = nodes or [""]

        def again(one: Row) -> None:
            if one["state"] not in WAITING:
                one["state"] = transition(State(one["state"]), Event.RESCHEDULE).value
            one["due_s"] = due_s or 0.0
            one["wanted_node"] = (
                one["node"] if mode == "same" else targets[one["item_id"] % len(targets)]
            )

        return self._each(filters, again, **batch)

    def cancel_items_matching(self, filters: Row, **batch: Any) -> Row:
        def cancel(one: Row) -> None:
            one["state"] = transition(State(one["state"]), Event.CANCEL).value

        return self._each(filters, cancel, **batch)

    def delete_items(self, filters: Row, **batch: Any) -> Row:
        def delete(one: Row) -> None:
            if one["state"] == State.IN_PROCESS:
                raise IllegalTransition("a running item is not deleted")
            self.items.remove(one)

        return self._each(filters, delete, **batch)

    def set_priority(self, filters: Row, *, priority: str, **batch: Any) -> Row:
        def prioritise(one: Row) -> None:
            one["priority"] = PRIORITIES[priority]

        return self._each(filters, prioritise, **batch)

    def halt(self, kind: str, who: str) -> Row:
        self.halted[kind] = who
        return self.queue_state()

    def resume(self, kind: str, who: str) -> Row:
        self.halted.pop(kind, None)
        return self.queue_state()

    def drain(self, name: str, who: str) -> Row:
        self._node(name)["state"] = "draining"
        return self._node(name)

    def undrain(self, name: str, who: str) -> Row:
        self._node(name)["state"] = "live"
        return self._node(name)

    def move_master(self, to: str, who: str) -> Row:
        chosen = to or next(one["name"] for one in self.nodes if one["name"] != self.master_node)
        if self._node(chosen)["state"] != "live":
            raise IllegalTransition(f"node {chosen} is {self._node(chosen)['state']}")
        told = {"from": self.master_node, "to": chosen, "epoch": self.epoch}
        self.master_node, self.epoch = chosen, self.epoch + 1
        return told

    def _node(self, name: str) -> Row:
        for one in self.nodes:
            if one["name"] == name:
                return one
        raise NotFound(f"no node {name!r}")

    def _match(self, filters: Mapping[str, str]) -> list[Row]:
        found = self.items
        for key, value in filters.items():
            if key == "state":
                found = [one for one in found if one["state"] in value.split(",")]
            elif key == "error":
                found = [one for one in found if value.lower() in one["error"].lower()]
            elif key == "priority":
                found = [one for one in found if one["priority"] == PRIORITIES[value]]
            elif key.endswith("_after"):
                name = key.removesuffix("_after") + "_s"
                found = [one for one in found if one[name] >= float(value)]
            elif key.endswith("_before"):
                name = key.removesuffix("_before") + "_s"
                found = [one for one in found if one[name] < float(value)]
            elif key in ("item_id", "kind", "node", "wanted_node", "study_uid"):
                found = [one for one in found if str(one[key]) == value]
            else:
                raise InvalidQuery(f"no filter {key!r}")
        return found

    def _each(
        self, filters: Row, change: Callable[[Row], None], *, who: str, limit: int, after_id: int
    ) -> Row:
        assert who
        matching = [one for one in self._match(filters) if one["item_id"] > after_id]
        matching.sort(key=lambda one: one["item_id"])
        chosen, refused = matching[:limit], []
        for one in chosen:
            try:
                change(one)
            except IllegalTransition as exc:
                refused.append({"item_id": one["item_id"], "why": str(exc)})
        self.during()
        return {
            "matched": len(chosen),
            "changed": len(chosen) - len(refused),
            "refused": refused[:20],
            "more": len(matching) > limit,
            "after_id": chosen[-1]["item_id"] if chosen else after_id,
        }
