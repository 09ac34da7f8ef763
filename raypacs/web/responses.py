"""Pieces of answers that several resources share: 304, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from starlette.requests import Request
from starlette.responses import Response

from raypacs.web.tags import matches


def not_modified(request: Request, tag: str, vary: str) -> Response | None:
    """Return 304 if the client has what ``tag`` stands for."""
    if not matches(request.headers.get("if-none-match", ""), tag):
        return None
    return Response(status_code=304, headers={"ETag": tag, "Vary": vary})


async def streamed(first: bytes, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what ``pieces`` make, one after the other in a thread; '' ends them."""
    yield first
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece


def root_url(request: Request) -> str:
    """Return the DICOMweb root as this client sees it."""
    return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}"
