"""Resources of the work queue: the task list, and orders for one item, for many, for all.

Orders for many go to the master in batches, so that its one thread is never blocked for long.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from raypacs.errors import IllegalTransition, InvalidQuery, NotFound
from raypacs.web.gateway import Gateway
from raypacs.web.models.work import (
    MAX_ID,
    BulkAnswer,
    DeletedTask,
    Enqueue,
    KindName,
    PriorityMany,
    QueueState,
    RescheduleMany,
    Selection,
    Task,
    TaskPage,
    TaskQuery,
    WantedPriority,
    When,
)
from raypacs.web.rest.answers import (
    NO_INDEX,
    NO_ITEM,
    NO_ITEM_OR_NODE,
    NO_MASTER,
    NO_NODE,
    NO_STUDY_OR_NODE,
    NOT_NOW,
    who_asks,
)
from raypacs.web.services import Row, Services

BATCH = 500
ItemId = Annotated[int, Path(ge=1, le=MAX_ID, description="Number of the item")]
_REFUSED_SHOWN = 20


def create(gateway: Gateway) -> APIRouter:
    """Return the routes; those with fixed names come before those with an item's number."""
    router = APIRouter(tags=["queue"])
    _add_list(router, gateway)
    _add_halting(router, gateway)
    _add_many(router, gateway)
    _add_one(router, gateway)
    return router


def _each_key_once(request: Request) -> None:
    """Refuse `state=FAILED&state=CANCELED`: one of them would be dropped without a word."""
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if given.count(name) > 1:
            raise InvalidQuery(f"{name}: given twice; several values by comma", key=name)


def _add_list(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/queue",
        summary="The task list of the cluster, newest items first",
        response_model=TaskPage,
        responses=NO_INDEX,
        dependencies=[Depends(_each_key_once)],
    )
    def list_tasks(query: Annotated[TaskQuery, Query()]) -> Row:
        return services.tasks(query.given(), query.limit, query.offset, query.before_id)

    @router.post(
        "/api/v1/queue",
        status_code=202,
        summary="Ask for work on a study; an item that waits for it already stands for it",
        response_model=Task,
        responses=NO_STUDY_OR_NODE | NO_MASTER,
    )
    def enqueue(body: Enqueue, request: Request) -> Row:
        item_id = services.master(
            "enqueue_item",
            body.kind,
            body.study_uid,
            priority=body.priority,
            due_s=body.at,
            wanted_node=body.node,
            payload=body.payload,
            who=who_asks(gateway, request),
        )
        return services.task(int(item_id))

    @router.get(
        "/api/v1/queue/state",
        summary="Is it running, halting, halted or stalled, as a whole and each kind",
        response_model=QueueState,
        responses=NO_INDEX,
    )
    def queue_state() -> Row:
        return services.queue_state()


def _add_halting(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.post(
        "/api/v1/queue/halt",
        summary="Give out nothing new, of one kind or at all; what runs goes on",
        response_model=QueueState,
        responses=NO_MASTER,
    )
    def halt(request: Request, body: KindName | None = None) -> Row:
        services.master("halt", body.kind if body else "", who_asks(gateway, request))
        return services.queue_state()

    @router.post(
        "/api/v1/queue/resume",
        summary="Give out work again, of one kind or at all",
        response_model=QueueState,
        responses=NO_MASTER,
    )
    def resume(request: Request, body: KindName | None = None) -> Row:
        services.master("resume", body.kind if body else "", who_asks(gateway, request))
        return services.queue_state()


def _add_many(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.post(
        "/api/v1/queue/reschedule",
        summary="Do again what matches: now or later, on the same node, a named one, or several",
        response_model=BulkAnswer,
        responses=NO_NODE | NO_MASTER,
    )
    def reschedule_many(body: RescheduleMany, request: Request) -> Row:
        order = {"due_s": body.at, "nodes": body.nodes or None, "mode": body.mode}
        return _for_all(services, "reschedule_items", body, who_asks(gateway, request), **order)

    @router.post(
        "/api/v1/queue/cancel",
        summary="Cancel what matches; what runs stops within seconds",
        response_model=BulkAnswer,
        responses=NO_MASTER,
    )
    def cancel_many(body: Selection, request: Request) -> Row:
        return _for_all(services, "cancel_items_matching", body, who_asks(gateway, request))

    @router.post(
        "/api/v1/queue/delete",
        summary="Take what matches out of the task list; running items are refused",
        response_model=BulkAnswer,
        responses=NO_MASTER,
    )
    def delete_many(body: Selection, request: Request) -> Row:
        return _for_all(services, "delete_items", body, who_asks(gateway, request))

    @router.post(
        "/api/v1/queue/priority",
        summary="Give a priority to what matches",
        response_model=BulkAnswer,
        responses=NO_MASTER,
    )
    def prioritise_many(body: PriorityMany, request: Request) -> Row:
        who = who_asks(gateway, request)
        return _for_all(services, "set_priority", body, who, priority=body.priority)


def _add_one(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/queue/{item_id}",
        summary="One work item",
        response_model=Task,
        responses=NO_ITEM | NO_INDEX,
    )
    def task(item_id: ItemId) -> Row:
        return services.task(item_id)

    @router.delete(
        "/api/v1/queue/{item_id}",
        summary="Take an item that does not run out of the task list",
        response_model=DeletedTask,
        responses=NO_ITEM | NOT_NOW | NO_MASTER,
    )
    def delete_task(item_id: ItemId, request: Request) -> Row:
        _for_one(services, "delete_items", item_id, who_asks(gateway, request))
        return {"item_id": item_id, "deleted": True}

    @router.post(
        "/api/v1/queue/{item_id}/reschedule",
        summary="Do an item again: now or later, on the same node, a named one, or several",
        response_model=Task,
        responses=NO_ITEM_OR_NODE | NOT_NOW | NO_MASTER,
    )
    def reschedule_task(item_id: ItemId, request: Request, body: When | None = None) -> Row:
        when = body or When()
        order = {"due_s": when.at, "nodes": when.nodes or None, "mode": when.mode}
        who = who_asks(gateway, request)
        _for_one(services, "reschedule_items", item_id, who, **order)
        return services.task(item_id)

    @router.post(
        "/api/v1/queue/{item_id}/cancel",
        summary="Cancel an item; if it runs, it stops within seconds",
        response_model=Task,
        responses=NO_ITEM | NOT_NOW | NO_MASTER,
    )
    def cancel_task(item_id: ItemId, request: Request) -> Row:
        _for_one(services, "cancel_items_matching", item_id, who_asks(gateway, request))
        return services.task(item_id)

    @router.post(
        "/api/v1/queue/{item_id}/priority",
        summary="Give an item a priority",
        response_model=Task,
        responses=NO_ITEM | NOT_NOW | NO_MASTER,
    )
    def prioritise_task(item_id: ItemId, body: WantedPriority, request: Request) -> Row:
        who = who_asks(gateway, request)
        _for_one(services, "set_priority", item_id, who, priority=body.priority)
        return services.task(item_id)


def _for_all(services: Services, event: str, chosen: Selection, who: str, **order: Any) -> Row:
    """Order something for all items that match, batch by batch.

    The newest item of now is the last: what is enqueued meanwhile is not chased for ever. The
    master is asked even where nothing matches if the order names nodes: it knows them.
    """
    filters = chosen.filter.given()
    found = services.tasks(filters, 1, 0, 0)["items"]
    newest_id = found[0]["item_id"] if found else 0
    told: Row = {"matched": 0, "changed": 0, "refused": []}
    after_id, more = 0, bool(found or order.get("nodes"))
    while more:
        if order.get("mode") == "spread":
            order["done"] = told["changed"]  # goes on where the last batch ended
        part = services.master(event, filters, who=who, limit=BATCH, after_id=after_id, **order)
        told["matched"] += part["matched"]
        told["changed"] += part["changed"]
        told["refused"] = [*told["refused"], *part["refused"]][:_REFUSED_SHOWN]
        after_id = part["after_id"]
        more = part["more"] and after_id < newest_id
    return told


def _for_one(services: Services, event: str, item_id: int, who: str, **order: Any) -> None:
    """Order something for one item.

    Raises:
        NotFound: no such item.
        IllegalTransition: its state does not allow it.
    """
    filters = {"item_id": str(item_id)}
    told = services.master(event, filters, who=who, limit=1, after_id=0, **order)
    if not told["matched"]:
        raise NotFound(f"no work item {item_id}")
    if told["refused"]:
        raise IllegalTransition(str(told["refused"][0]["why"]))
