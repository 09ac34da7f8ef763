"""The whole web edge as one ASGI application: frames first, then DICOMweb, then REST and page."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from raypacs.web.dicomweb import create_dicomweb
from raypacs.web.gateway import Gateway
from raypacs.web.hot import App, FrameGate, Headers, Receive, Send
from raypacs.web.rest import create_rest
from raypacs.web.services import Services

_EXPOSED = ("ETag", "Content-Range", "Accept-Ranges", "Content-Location", "Warning", "Retry-After")


def create_app(services: Services, *, cors_origin: str = "*") -> App:
    """Return the application over ``services``.

    ``cors_origin`` is sent with DICOMweb answers only, so that viewers from other origins work;
    the REST API, which deletes, is never open to other origins. '' sends none.
    """
    gateway = Gateway(services, cors_origin=cors_origin)
    dicomweb: App = create_dicomweb(gateway)
    cors: Headers = []
    if cors_origin:
        dicomweb = CORSMiddleware(
            dicomweb,
            allow_origins=[cors_origin],
            allow_methods=["GET", "HEAD", "POST", "OPTIONS"],
            allow_headers=["*"],
            expose_headers=list(_EXPOSED),
        )
        cors = [
            (b"access-control-allow-origin", cors_origin.encode()),
            (b"access-control-expose-headers", ", ".join(_EXPOSED).encode()),
        ]
    rest = GZipMiddleware(create_rest(gateway), minimum_size=1000, compresslevel=1)
    rooted = _Rooted(dicomweb, gateway.prefix, rest)
    return FrameGate(
        rooted,
        gateway.views,
        gateway.frames,
        restores=gateway.restores,
        prefix=gateway.prefix,
        common_headers=cors,
    )


class _Rooted:
    """Gives ``prefix`` to one application and everything else to the other."""

    def __init__(self, inner: App, prefix: str, other: App) -> None:
        self._inner = inner
        self._prefix = prefix
        self._other = other

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Dispatch by path."""
        if scope["type"] == "http" and scope["path"].startswith(self._prefix + "/"):
            await self._inner({**scope, "root_path": self._prefix}, receive, send)
        else:
            await self._other(scope, receive, send)
