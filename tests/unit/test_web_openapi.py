"""The OpenAPI text: every operation is described, and every answer is one that is described."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from web_world import World

from raypacs.web.gateway import Gateway
from raypacs.web.rest import create_rest

PROJECT = Path(__file__).parents[2]

OPERATIONS = {
    "GET /api/v1/health",
    "GET /api/v1/status",
    "GET /api/v1/settings",
    "PUT /api/v1/settings",
    "GET /api/v1/studies",
    "GET /api/v1/studies/{uid}",
    "GET /api/v1/studies/{uid}/why",
    "GET /api/v1/studies/{uid}/archive",
    "GET /api/v1/archive",
    "POST /api/v1/archive/orders",
    "POST /api/v1/archive/verifications",
    "POST /api/v1/restores",
    "GET /api/v1/restores",
    "GET /api/v1/restores/{item_id}",
    "POST /api/v1/prefetches",
    "GET /api/v1/caches",
    "GET /api/v1/caches/{tier}/forecast",
    "GET /api/v1/caches/{tier}/history",
    "POST /api/v1/caches/simulate",
    "GET /api/v1/caches/size",
    "GET /api/v1/evictions",
    "POST /api/v1/evictions",
    "POST /api/v1/studies/{uid}/evict",
    "GET /api/v1/pins",
    "PUT /api/v1/studies/{uid}/pin",
    "DELETE /api/v1/studies/{uid}/pin",
    "DELETE /api/v1/studies/{uid}/libraries/{library}",
    "POST /api/v1/adoptions",
    "GET /api/v1/adoptions/{item_id}",
    "GET /api/v1/adoptions/{item_id}/report",
    "GET /api/v1/tiers",
    "POST /api/v1/tiers",
    "GET /api/v1/tiers/{name}",
    "PATCH /api/v1/tiers/{name}",
    "DELETE /api/v1/tiers/{name}",
    "GET /api/v1/tiers/{name}/drain",
    "POST /api/v1/tiers/{name}/drain",
    "POST /api/v1/tiers/{name}/check",
    "POST /api/v1/recount",
    "POST /api/v1/studies/{uid}/migrate",
    "GET /api/v1/studies/{uid}/rules",
    "POST /api/v1/rules/test",
    "GET /api/v1/studies/{uid}/status",
    "POST /api/v1/studies/{uid}/status",
    "GET /api/v1/studies/{uid}/arrival",
    "POST /api/v1/rules/arrival",
    "GET /api/v1/statuses",
    "GET /api/v1/sources",
    "GET /api/v1/erasures",
    "POST /api/v1/erasures",
    "GET /api/v1/erasures/{erasure_id}",
    "DELETE /api/v1/studies/{uid}",
    "POST /api/v1/studies/{uid}/complete",
    "POST /api/v1/complete",
    "POST /api/v1/instances",
    "GET /api/v1/queue",
    "POST /api/v1/queue",
    "GET /api/v1/queue/state",
    "POST /api/v1/queue/halt",
    "POST /api/v1/queue/resume",
    "POST /api/v1/queue/reschedule",
    "POST /api/v1/queue/cancel",
    "POST /api/v1/queue/delete",
    "POST /api/v1/queue/priority",
    "GET /api/v1/queue/{item_id}",
    "DELETE /api/v1/queue/{item_id}",
    "POST /api/v1/queue/{item_id}/reschedule",
    "POST /api/v1/queue/{item_id}/cancel",
    "POST /api/v1/queue/{item_id}/priority",
    "GET /api/v1/nodes",
    "GET /api/v1/nodes/{name}",
    "POST /api/v1/nodes/{name}/drain",
    "POST /api/v1/nodes/{name}/undrain",
    "GET /api/v1/master",
    "POST /api/v1/master/move",
}
STREAMS = {
    "GET /api/v1/studies/{uid}/archive": "application/zip",
    "GET /api/v1/adoptions/{item_id}/report": "application/x-ndjson",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


@pytest.fixture
def text(world: World) -> dict[str, Any]:
    return create_rest(Gateway(world.services())).openapi()


def _operations(text: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": told
        for path, methods in text["paths"].items()
        for method, told in methods.items()
    }


def test_every_operation_is_there(text: dict[str, Any]) -> None:
    assert set(_operations(text)) == OPERATIONS


def test_every_operation_is_described(text: dict[str, Any]) -> None:
    found = _operations(text)
    tags = {tag["name"] for tag in text["tags"]}
    for name, told in found.items():
        assert told["summary"], name
        assert set(told["tags"]) <= tags, name
        for parameter in told.get("parameters", ()):
            if parameter["in"] == "query":
                assert parameter.get("description"), f"{name}: {parameter['name']}"
    names = [told["operationId"] for told in found.values()]
    assert len(names) == len(set(names))


def test_every_answer_has_a_model(text: dict[str, Any], world: World) -> None:
    for name, told in _operations(text).items():
        (status,) = (code for code in told["responses"] if code.startswith("2"))
        if name in STREAMS:
            assert set(told["responses"][status]["content"]) == {STREAMS[name]}
            continue
        schema = told["responses"][status]["content"]["application/json"]["schema"]
        assert "$ref" in schema or "items" in schema, name
    for route in create_rest(Gateway(world.services())).routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        if f"GET {route.path}" not in STREAMS:
            assert route.response_model is not None, route.path


def test_every_error_is_a_problem(text: dict[str, Any]) -> None:
    for name, told in _operations(text).items():
        errors = {code: one for code, one in told["responses"].items() if code[0] in "45"}
        assert errors, name
        for code, one in errors.items():
            schema = one["content"]["application/problem+json"]["schema"]
            assert {"type", "title", "status", "detail"} <= set(schema["properties"]), (name, code)
        if told.get("parameters") or "requestBody" in told:
            takes_any_body = name in {"POST /api/v1/instances", "PUT /api/v1/settings"}
            assert "400" in errors or takes_any_body, name


def test_every_field_is_described(text: dict[str, Any]) -> None:
    for name, schema in text["components"]["schemas"].items():
        assert schema.get("description") or "enum" in schema, name
        assert name not in {"HTTPValidationError", "ValidationError"}
        if name in {"FillRate", "Ingested", "DeletedTask"}:
            continue  # their fields say all there is to say
        for key, field in schema.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"


def test_the_page_of_the_documentation_names_every_operation(text: dict[str, Any]) -> None:
    page = (PROJECT / "docs" / "rest.md").read_text(encoding="utf-8")
    for operation in _operations(text):
        assert f"`{operation}`" in page, operation


def test_orders_that_name_nodes_say_that_there_may_be_none(text: dict[str, Any]) -> None:
    found = _operations(text)
    for name in (
        "POST /api/v1/queue",
        "POST /api/v1/queue/reschedule",
        "POST /api/v1/queue/{item_id}/reschedule",
    ):
        assert "node" in found[name]["responses"]["404"]["description"], name
    assert "counts" in text["components"]["schemas"]["KindState"]["properties"]
