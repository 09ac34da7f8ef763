"""Errors as OpenAPI describes them, and who asks."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from raypacs.web import problem
from raypacs.web.gateway import Gateway
from raypacs.web.models.base import ProblemDetails

Responses = dict[int | str, dict[str, Any]]

_CONTENT = {"content": {problem.MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}}}


def says(description: str) -> dict[str, Any]:
    """Return the OpenAPI text of an error."""
    return {"description": description, **_CONTENT}


BAD_REQUEST = says("A key or value is wrong; says which")
NO_INDEX: Responses = {503: says("The index cannot be read just now; ask again after Retry-After")}
NO_MASTER: Responses = {503: says("The master is not reachable; ask again after Retry-After")}
NO_STUDY: Responses = {404: says("No such study")}
NO_STUDY_OR_NODE: Responses = {404: says("No such study or node")}
NO_ITEM: Responses = {404: says("No such work item")}
NO_ITEM_OR_NODE: Responses = {404: says("No such work item or node")}
NO_NODE: Responses = {404: says("No such node")}
NOT_NOW: Responses = {409: says("Not possible in the state that the item is in; says which")}


def who_asks(gateway: Gateway, request: Request) -> str:
    """Return who is written into the audit: X-Raypacs-Source, or the client's address."""
    client = request.client.host if request.client else ""
    return gateway.source(request.headers.get("x-raypacs-source"), f"REST {client}".strip())
