"""The DICOMweb resources other than frames (PS3.18 chapter 10), as one Starlette application.

Handlers only read the request and choose the status; what takes time runs in threads.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Callable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from raypacs.errors import InstanceAway, NotFound, RaypacsError
from raypacs.web import instances, overviews, problem, qido, store
from raypacs.web.gateway import PARTLY, Gateway
from raypacs.web.hot import read_accept
from raypacs.web.multipart import TAIL, content_type, part_head
from raypacs.web.negotiate import Choice, accepts_gzip, choose_frame, choose_plain
from raypacs.web.places import Place, SeriesView
from raypacs.web.problem import Problem
from raypacs.web.ranges import parse_range
from raypacs.web.rendering.resources import picture_routes
from raypacs.web.responses import not_modified, root_url, streamed
from raypacs.web.services import Row, SearchParams
from raypacs.web.tags import tag_of
from raypacs.web.volumes import volume_routes

_log = logging.getLogger("raypacs.web")

JSON = "application/dicom+json"
_JSON_TYPES = (JSON, "application/json")
_GZIP_FROM_BYTES = 1000


def create_dicomweb(gateway: Gateway) -> Starlette:
    """Return the application below the DICOMweb root."""
    resources = _Resources(gateway)
    study, series = "/studies/{study}", "/studies/{study}/series/{series}"
    instance = series + "/instances/{instance}"
    patient = gateway.patient
    get = ["GET", "HEAD"]

    def route(path: str, endpoint: Callable[..., Any], methods: list[str] = get) -> Route:
        return Route(path, endpoint, methods=methods)

    return Starlette(
        routes=[
            route("/studies", resources.search_studies),
            route("/studies", resources.store, ["POST"]),
            route("/series", resources.search_series),
            route("/instances", resources.search_instances),
            route(study + "/series", resources.search_series),
            route(study + "/instances", resources.search_instances),
            route(series + "/instances", resources.search_instances),
            route(study + "/metadata", patient(resources.study_metadata)),
            route(series + "/metadata", patient(resources.series_metadata)),
            route(instance + "/metadata", patient(resources.instance_metadata)),
            route(series + "/overview", resources.overview),
            *picture_routes(gateway),
            *volume_routes(gateway),
            route(instance + "/bulkdata/{path:path}", patient(resources.bulk)),
            route(study, patient(resources.retrieve_study)),
            route(study, resources.store, ["POST"]),
            route(series, patient(resources.retrieve_series)),
            route(instance, patient(resources.retrieve_instance)),
        ],
        exception_handlers={
            Problem: problem.handle,
            RaypacsError: problem.handle,
            404: _no_route,
            405: _no_route,
            Exception: problem.unforeseen,
        },
    )


async def _no_route(_request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    return Response(
        problem.body(status, "no such resource here"),
        status,
        headers=getattr(error, "headers", None),
        media_type=problem.MEDIA_TYPE,
    )


class _Resources:
    """One handler per kind of resource."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._views = gateway.views

    # Search ---------------------------------------------------------------------------------

    async def search_studies(self, request: Request) -> Response:
        return await self._search(request, self._gateway.services.search_studies)

    async def search_series(self, request: Request) -> Response:
        return await self._search(request, self._gateway.services.search_series)

    async def search_instances(self, request: Request) -> Response:
        return await self._search(request, self._gateway.services.search_instances)

    async def _search(
        self, request: Request, search: Callable[[SearchParams], list[Row]]
    ) -> Response:
        _require_json(request)
        params: SearchParams = {}
        for key, value in request.query_params.multi_items():
            if key != "accept":
                params.setdefault(key, []).append(value)
        # The UIDs of the path are matching keys like others (PS3.18 table 10.6.1-1).
        for name, keyword in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
            if name in request.path_params:
                params[keyword] = [request.path_params[name]]
        root = root_url(request)
        asked, most = qido.with_one_more(params)
        rows = await asyncio.to_thread(search, asked)
        headers = qido.warnings(root, params, cut=len(rows) > most)
        if not rows[:most]:
            return Response(status_code=204, headers=headers)
        body = await asyncio.to_thread(qido.answer, rows[:most], root)
        return _json(request, body, headers)

    # Store ----------------------------------------------------------------------------------

    async def store(self, request: Request) -> Response:
        _require_json(request)
        gateway = self._gateway
        study_uid = request.path_params.get("study", "")
        objects = await store.ingest(
            gateway.services.intake,
            request.headers.get("content-type", ""),
            request.stream(),
            source=gateway.source(request.headers.get("x-raypacs-source"), "STOW"),
            limit_bytes=await asyncio.to_thread(gateway.max_instance_bytes),
            study_uid=study_uid,
            peer=request.client.host if request.client else "",
        )
        if not objects:
            raise Problem(400, "the request has no parts")
        status, body = store.stow_answer(objects, root_url(request), study_uid)
        return Response(body, status, media_type=JSON)

    # Metadata and bulk data -----------------------------------------------------------------

    async def study_metadata(self, request: Request) -> Response:
        _require_json(request)
        views = await self._study_views(request.path_params["study"])
        maker = self._gateway.metadata
        return await self._metadata(
            request, _places(views), lambda gzipped: maker.study(views, gzipped=gzipped)
        )

    async def series_metadata(self, request: Request) -> Response:
        _require_json(request)
        view = await self._view(request)
        maker = self._gateway.metadata
        return await self._metadata(
            request, _places([view]), lambda gzipped: maker.series(view, gzipped=gzipped)
        )

    async def instance_metadata(self, request: Request) -> Response:
        _require_json(request)
        place = await self._place(request)
        maker = self._gateway.metadata
        return await self._metadata(
            request, [place], lambda gzipped: maker.instance(place, gzipped=gzipped)
        )

    async def _metadata(
        self, request: Request, places: list[Place], make: Callable[[bool], bytes]
    ) -> Response:
        gzipped = accepts_gzip(request.headers.get("accept-encoding", ""))
        tag = tag_of(places, f"metadata {gzipped}")
        if (same := not_modified(request, tag, _VARY)) is not None:
            return same
        body = await asyncio.to_thread(make, gzipped)
        return _encoded(body, JSON, {"ETag": tag}, gzipped=gzipped)

    async def bulk(self, request: Request) -> Response:
        place = await self._place(request)
        path = request.path_params["path"].strip("/").split("/")
        kind = "application/octet-stream"
        choice = choose_frame(read_accept(request.scope), "", "", True)
        if choice is None:
            raise Problem(406, f"bulk data is {kind}", Vary="Accept")
        tag = tag_of([place], f"bulk {path} {choice.multipart}", weak=choice.multipart)
        if (same := not_modified(request, tag, "Accept")) is not None:
            return same
        data = await asyncio.to_thread(self._gateway.metadata.bulk, place, path)
        headers = {"ETag": tag, "Vary": "Accept"}
        if choice.multipart:
            body = b"".join((part_head(kind, first=True), data, TAIL))
            return Response(body, headers={**headers, "Content-Type": content_type(kind)})
        return _ranged(request, data, kind, headers)

    # Instances ------------------------------------------------------------------------------

    async def retrieve_study(self, request: Request) -> Response:
        views = await self._study_views(request.path_params["study"])
        return await self._retrieve(request, _places(views))

    async def retrieve_series(self, request: Request) -> Response:
        view = await self._view(request)
        return await self._retrieve(request, _places([view]))

    async def retrieve_instance(self, request: Request) -> Response:
        return await self._retrieve(request, [await self._place(request)])

    async def _retrieve(self, request: Request, places: list[Place]) -> Response:
        accept = read_accept(request.scope)
        chosen = [(place, instances.choose(place, accept)) for place in places]
        sent = [(place, choice) for place, choice in chosen if choice is not None]
        tag = tag_of(places, f"instances {[choice for _, choice in chosen]}", weak=True)
        if sent and (same := not_modified(request, tag, "Accept")) is not None:
            return same
        instances_of = self._gateway.instances
        if len(sent) > 1:
            # Before the status. One alone says itself what is wrong with it.
            partly = PARTLY in request.scope
            sent = await asyncio.to_thread(
                lambda: [one for one in sent if self._can_be_had(*one, partly=partly)]
            )
        if not sent and PARTLY in request.scope:
            raise NotFound("none of the instances is in a cache or sound in a library")
        if not sent:
            raise Problem(406, f"instances cannot be had as {accept!r}", Vary="Accept")
        if not sent[0][1].multipart:
            if len(places) > 1:
                raise Problem(406, "several instances come as multipart/related only")
            choice, pieces = await asyncio.to_thread(instances_of.open, *sent[0])
            kind = f"application/dicom; transfer-syntax={choice.transfer_syntax_uid}"
        else:
            kind = content_type("application/dicom")
            pieces = self._parts(sent, root_url(request), partly=PARTLY in request.scope)
        # 206: some of the instances cannot be had as asked (PS3.18 table 10.4.3-1).
        status = 200 if len(sent) == len(places) else 206
        headers = {"Vary": "Accept", "Content-Type": kind}
        if status == 200:
            headers["ETag"] = tag
        if request.method == "HEAD":
            # Streamed, as the other: its length is not known, and not 0.
            return StreamingResponse(iter(()), status, headers=headers)
        # The first piece before the status: what cannot be read at all becomes a problem.
        first = await asyncio.to_thread(next, pieces, b"")
        return StreamingResponse(streamed(first, pieces), status, headers=headers)

    def _can_be_had(self, place: Place, choice: Choice, *, partly: bool) -> bool:
        instances_of = self._gateway.instances
        try:
            found = instances_of.obtainable(place, choice)
            return found and (not partly or instances_of.is_there(place))
        except InstanceAway:
            if partly:
                return False
            raise

    def _parts(
        self, sent: list[tuple[Place, Choice]], root: str, *, partly: bool
    ) -> Iterator[bytes]:
        """Yield the parts. What cannot be had after all is left out; raises if nothing can.

        Unless ``partly``, what left the image tiers is waited for by whoever is told InstanceAway.
        """
        first = True
        failed: RaypacsError | None = None
        for place, choice in sent:
            record = place.stored.record
            where = (
                f"{root}/studies/{record.study_uid}/series/{record.series_uid}"
                f"/instances/{record.sop_instance_uid}"
            )
            try:
                choice, pieces = self._gateway.instances.open(place, choice)
            except RaypacsError as exc:
                if isinstance(exc, InstanceAway) and not partly:
                    if first:
                        raise
                    self._gateway.restores.missed(record.study_uid)
                _log.warning("instance %s is left out: %s", record.sop_instance_uid, exc)
                failed = exc
                continue
            kind = f"application/dicom; transfer-syntax={choice.transfer_syntax_uid}"
            yield part_head(kind, first=first, location=where)
            first = False
            yield from pieces
        if first and failed is not None:
            raise failed
        yield TAIL

    # Overviews -------------------------------------------------------------------------------

    async def overview(self, request: Request) -> Response:
        view = await self._view(request)
        level = overviews.parse_level(request.query_params.get("level", "3"))
        media = choose_plain(
            read_accept(request.scope), (overviews.MEDIA_TYPE, "multipart/related")
        )
        if media is None:
            raise Problem(406, f"overviews are {overviews.MEDIA_TYPE} or multipart/related")
        weak = media != overviews.MEDIA_TYPE
        tag = tag_of(_places([view]), f"overview {level} {media}", weak=weak)
        headers = {"ETag": tag, "Vary": "Accept"}
        if (same := not_modified(request, tag, "Accept")) is not None:
            return same
        if media == overviews.MEDIA_TYPE:
            body = await asyncio.to_thread(self._gateway.overviews.container, view, level)
            return _ranged(request, body, media, headers)
        body = await asyncio.to_thread(self._gateway.overviews.parts, view, level)
        return Response(body, headers={**headers, "Content-Type": content_type("image/jphc")})

    # Places ---------------------------------------------------------------------------------

    async def _view(self, request: Request) -> SeriesView:
        return await self._views.view(request.path_params["study"], request.path_params["series"])

    async def _place(self, request: Request) -> Place:
        params = request.path_params
        return await self._views.place(params["study"], params["series"], params["instance"])

    async def _study_views(self, study_uid: str) -> list[SeriesView]:
        found = await asyncio.to_thread(self._gateway.services.instances, study_uid)
        if not found:
            raise NotFound(f"no study {study_uid}")
        uids = dict.fromkeys(one.record.series_uid for one in found)
        return [await self._views.view(study_uid, uid) for uid in uids]


_VARY = "Accept, Accept-Encoding"


def _require_json(request: Request) -> None:
    if choose_plain(read_accept(request.scope), _JSON_TYPES) is None:
        raise Problem(406, f"the answer is {JSON}", Vary="Accept")


def _json(request: Request, body: bytes, headers: dict[str, str]) -> Response:
    gzipped = len(body) >= _GZIP_FROM_BYTES and accepts_gzip(
        request.headers.get("accept-encoding", "")
    )
    body = gzip.compress(body, 1, mtime=0) if gzipped else body
    return _encoded(body, JSON, headers, gzipped=gzipped)


def _encoded(body: bytes, kind: str, headers: dict[str, str], *, gzipped: bool) -> Response:
    headers = {**headers, "Vary": _VARY, "Cache-Control": "private, no-cache"}
    if gzipped:
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=kind, headers=headers)


def _places(views: list[SeriesView]) -> list[Place]:
    return [place for view in views for place in view.places.values()]


def _ranged(
    request: Request, data: bytes, kind: str, headers: dict[str, str] | None = None
) -> Response:
    """Return a whole body or the one range of it that was asked for."""
    headers = {**(headers or {}), "Accept-Ranges": "bytes"}
    wanted = parse_range(request.headers.get("range", ""), len(data))
    if request.headers.get("if-range", headers.get("ETag")) != headers.get("ETag"):
        wanted = None
    if wanted == "unsatisfiable":
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    if isinstance(wanted, tuple):
        start, stop = wanted
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return Response(data[start:stop], 206, media_type=kind, headers=headers)
    return Response(data, media_type=kind, headers=headers)
