"""Resources of tiers: listed, added, changed, drained, looked at, counted again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from raypacs.autopilot.tiers import TierSettings
from raypacs.errors import AlreadyExists, ConfigError, NotFound
from raypacs.parsing import parse
from raypacs.storage.checking import check_tier
from raypacs.web.gateway import Gateway
from raypacs.web.models.tiers import (
    DrainTier,
    OrderedMigration,
    OrderMigration,
    Recount,
    RecountedTier,
    RemovedTier,
    SeenTier,
    TierDrain,
    TierInFull,
    TierValues,
)
from raypacs.web.rest.answers import NO_INDEX, NO_MASTER, Responses, says, who_asks
from raypacs.web.services import Row, Services

_NO_TIER: Responses = {404: says("No such tier")}
_CHANGES: Responses = {
    409: says("Others changed the settings just now; ask again"),
    422: says("A value is wrong, or the tier holds objects: says which"),
}
_Values = Annotated[TierValues, Body(description="A tier's settings (docs/configuration.md)")]
_AGAIN = 3


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["tiers"])
    _add_states(router, gateway)
    _add_changes(router, gateway)
    _add_orders(router, gateway)
    return router


def _add_states(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/tiers",
        summary="The tiers: capacity, used, available, thresholds, archived, hours left, level",
        response_model=list[TierInFull],
        responses=NO_INDEX,
    )
    def tiers() -> list[Row]:
        return list(services.ask("tier_states"))

    @router.get(
        "/api/v1/tiers/{name}",
        summary="One tier",
        response_model=TierInFull,
        responses=_NO_TIER | NO_INDEX,
    )
    def tier(name: str) -> Row:
        return _state(services, name)

    @router.get(
        "/api/v1/tiers/{name}/drain",
        summary="What still lies on a tier",
        response_model=TierDrain,
        responses=_NO_TIER | NO_INDEX,
    )
    def drained(name: str) -> Row:
        return _drain(services, name)


def _add_changes(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.post(
        "/api/v1/tiers",
        status_code=201,
        summary="Add a tier; every node takes it into use within seconds",
        response_model=TierInFull,
        responses=_CHANGES | NO_MASTER,
    )
    def add(values: _Values, request: Request) -> Row:
        def change(tiers: list[Row]) -> list[Row]:
            if any(one["name"] == values.get("name") for one in tiers):
                raise AlreadyExists(f"there is a tier {values['name']}")
            return [*tiers, values]

        parse(TierSettings, values, "tier")
        _change(gateway, request, change)
        return _state(services, str(values["name"]))

    @router.patch(
        "/api/v1/tiers/{name}",
        summary="Change values of a tier; url and role only while it is empty",
        response_model=TierInFull,
        responses=_NO_TIER | _CHANGES | NO_MASTER,
    )
    def set_values(name: str, values: _Values, request: Request) -> Row:
        def change(tiers: list[Row]) -> list[Row]:
            return [one | values if one["name"] == name else one for one in tiers]

        _state(services, name)
        if values.get("name", name) != name:
            raise ConfigError("name: a tier keeps its name")
        _change(gateway, request, change)
        return _state(services, name)

    @router.delete(
        "/api/v1/tiers/{name}",
        summary="Take an empty tier out of the settings",
        response_model=RemovedTier,
        responses=_NO_TIER | _CHANGES | NO_MASTER,
    )
    def remove(name: str, request: Request) -> Row:
        _state(services, name)
        _change(gateway, request, lambda tiers: [one for one in tiers if one["name"] != name])
        return {"name": name, "removed": True}


def _add_orders(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.post(
        "/api/v1/tiers/{name}/drain",
        status_code=202,
        summary="Move everything away from a tier, which takes nothing new meanwhile",
        response_model=TierDrain,
        responses=_NO_TIER | _CHANGES | NO_MASTER,
    )
    def drain_tier(name: str, body: DrainTier, request: Request) -> Row:
        _check_drain(services, name, undo=body.undo)

        def change(tiers: list[Row]) -> list[Row]:
            return [
                one | {"draining": not body.undo} if one["name"] == name else one for one in tiers
            ]

        _change(gateway, request, change)
        return _drain(services, name)

    @router.post(
        "/api/v1/tiers/{name}/check",
        summary="Look at a tier from the node that answers: reach, marker, a probe, speed, room",
        response_model=SeenTier,
        responses=_NO_TIER | NO_INDEX,
    )
    def check(name: str) -> Row:
        settings = services.settings()[1]
        for one in settings.tiers:
            if one.name == name:
                return asdict(check_tier(one, services.ask("site").site_id))
        raise NotFound(f"no tier {name}", tier=name)

    @router.post(
        "/api/v1/studies/{uid}/migrate",
        status_code=202,
        summary="Move a study to another image tier, as one; reading goes on meanwhile",
        response_model=OrderedMigration,
        responses={
            404: says("No such study or tier"),
            409: says("Other work of the study waits or runs, or it still grows"),
            422: says("The tier takes no studies, or nothing of the study may move"),
            507: says("No image tier has room for it"),
            **NO_MASTER,
        },
    )
    def migrate(uid: str, body: OrderMigration, request: Request) -> Row:
        who = who_asks(gateway, request)
        item_id = services.master("order_migrate", uid, body.to, who)
        return {"item_id": item_id, "study_uid": uid}

    @router.post(
        "/api/v1/recount",
        summary="Count the bytes of all tiers again, from the index; changes nothing by itself",
        response_model=list[RecountedTier],
        responses=NO_INDEX,
    )
    def recount(body: Recount, request: Request) -> list[Row]:
        return _recounted(services, body.repair, who_asks(gateway, request))


def _state(services: Services, name: str) -> Row:
    for tier in services.ask("tier_states"):
        if tier["name"] == name:
            return dict(tier)
    raise NotFound(f"no tier {name}", tier=name)


def _check_drain(services: Services, name: str, *, undo: bool) -> None:
    """See that what lies on a tier can go somewhere.

    Raises:
        NotFound: no such tier.
        ConfigError: no other tier of its role takes new objects.
    """
    tier = _state(services, name)
    others = [
        one.name
        for one in services.settings()[1].tiers
        if one.role == tier["role"] and one.name != name and one.takes_new
    ]
    if not undo and not others and not tier["adopted"]:
        raise ConfigError(
            f"tier {name} is the only {tier['role']} tier that takes new objects: what lies there "
            "could go nowhere",
            hint=f"add another with `raypacs tier add NAME URL --role {tier['role']}` first",
            tier=name,
        )


def _drain(services: Services, name: str) -> Row:
    tier = _state(services, name)
    lies = services.ask("what_lies", name)
    failed = ("failed", "failed_archives")
    empty = not any(count for kind, count in lies.items() if kind not in failed)
    return {"name": name, "draining": tier["draining"], "empty": empty, "lies": lies}


def _change(gateway: Gateway, request: Request, change: Any) -> None:
    """Apply the settings with other tiers; again where others changed them in between.

    Raises:
        ConfigError, AlreadyExists: they cannot be.
    """
    services = gateway.services
    who = who_asks(gateway, request)
    for attempt in range(_AGAIN):
        version, settings = services.settings()
        values = settings.model_dump(mode="json")
        values["tiers"] = change(values["tiers"])
        try:
            services.apply_settings(values, who, version)
        except AlreadyExists:
            if attempt == _AGAIN - 1 or services.settings()[0] == version:
                raise
        else:
            return


def _recounted(services: Services, repair: bool, who: str) -> list[Row]:
    """Compare ledger and count, both of one moment."""
    found = services.ask("recounted")
    wrong = services.master("repair_ledger", who) if repair else {}
    return [
        {
            "tier": name,
            "ledger_bytes": ledger_bytes,
            "counted_bytes": counted,
            "difference_bytes": ledger_bytes - counted,
            "repaired": name in wrong,
        }
        for name, (ledger_bytes, counted) in sorted(found.items())
    ]
