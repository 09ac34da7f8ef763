"""The compression rules tried out: which decides over an instance, and what would happen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter

from raypacs.errors import NotFound
from raypacs.records import InstanceRecord
from raypacs.web.gateway import Gateway
from raypacs.web.models.rules import Described, RulesAsked, RulesExplained
from raypacs.web.rest.answers import NO_INDEX, NO_STUDY, says
from raypacs.web.services import Row


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    services = gateway.services

    def explained(records: Sequence[InstanceRecord], rules: list[dict[str, Any]] | None) -> Row:
        told = services.explain_rules(records, rules)
        return {
            "instances": [
                {"sop_instance_uid": record.sop_instance_uid, **one}
                for record, one in zip(records, told, strict=True)
            ]
        }

    @router.post(
        "/api/v1/rules/test",
        summary="Try compression rules on instances; nothing is stored or changed",
        tags=["settings"],
        response_model=RulesExplained,
        responses={422: says("A rule is wrong; says which"), **NO_INDEX},
    )
    def test(body: RulesAsked) -> Row:
        return explained([_record(one) for one in body.instances], body.rules)

    @router.get(
        "/api/v1/studies/{uid}/rules",
        summary="What the compression rules say of every instance of a stored study",
        tags=["studies"],
        response_model=RulesExplained,
        responses=NO_STUDY | NO_INDEX,
    )
    def of_study(uid: str) -> Row:
        records = [stored.record for stored in services.instances(uid)]
        if not records:
            raise NotFound(f"no study {uid}")
        return explained(records, None)

    return router


def _record(described: Described) -> InstanceRecord:
    return InstanceRecord(
        **described.model_dump(),
        tier="",
        path="",
        sha256="",
        dataset_offset_bytes=0,
        received_at_s=0.0,
    )
