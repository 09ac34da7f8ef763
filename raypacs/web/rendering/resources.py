"""The resources ``rendered`` and ``thumbnail`` (PS3.18 sections 10.4.1.1.3 and 10.4.1.1.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from raypacs.errors import (
    InstanceAway,
    MalformedInstance,
    NotFound,
    PackCorrupt,
    RaypacsError,
    UnsupportedPixels,
)
from raypacs.web.gateway import PARTLY, Gateway
from raypacs.web.hot import read_accept
from raypacs.web.multipart import TAIL, content_type, part_head
from raypacs.web.places import Place
from raypacs.web.problem import Problem
from raypacs.web.rendering.accept import choose_picture
from raypacs.web.rendering.asked import Viewport, Wanted, read_wanted
from raypacs.web.rendering.encoding import MEDIA_TYPES
from raypacs.web.rendering.kept import Kept
from raypacs.web.rendering.render import render_level
from raypacs.web.rendering.sources import Sources
from raypacs.web.rendering.thumbnails import (
    MOST_TRIES,
    SIDE,
    candidates,
    middle_frame,
    series_in_order,
)
from raypacs.web.responses import not_modified, root_url, streamed
from raypacs.web.tags import tag_of

_log = logging.getLogger("raypacs.web")
_MOST_FRAMES = 10_000
_HEADERS = {"Vary": "Accept", "Cache-Control": "private, no-cache"}
_UNSHOWN = (UnsupportedPixels, MalformedInstance, PackCorrupt, NotFound)


def picture_routes(gateway: Gateway) -> list[Route]:
    """Return the routes of rendered resources and thumbnails below the DICOMweb root."""
    pictures = _Pictures(gateway)
    study, series = "/studies/{study}", "/studies/{study}/series/{series}"
    instance = series + "/instances/{instance}"
    frames = instance + "/frames/{frames}"
    paths = {
        study + "/rendered": pictures.rendered_study,
        series + "/rendered": pictures.rendered_series,
        instance + "/rendered": pictures.rendered_instance,
        frames + "/rendered": pictures.rendered_frames,
        study + "/thumbnail": pictures.thumbnail_study,
        series + "/thumbnail": pictures.thumbnail_series,
        instance + "/thumbnail": pictures.thumbnail_instance,
        frames + "/thumbnail": pictures.thumbnail_frame,
    }
    return [
        Route(path, gateway.patient(method), methods=["GET", "HEAD"])
        for path, method in paths.items()
    ]


@dataclass(frozen=True, slots=True)
class _Shot:
    """One picture to make: frame ``number`` (from 1) of an instance."""

    place: Place
    number: int


class _Pictures:
    """One handler per resource; the last pictures are kept, by their entity tags."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._views = gateway.views
        self._sources = Sources(gateway.frames, gateway.header)
        self._kept: Kept[bytes] = Kept(32 * 1024 * 1024)

    # Rendered -------------------------------------------------------------------------------

    async def rendered_frames(self, request: Request) -> Response:
        place = await self._place(request)
        numbers = _frame_numbers(request.path_params["frames"], place.frames)
        shots = [_Shot(place, number) for number in numbers]
        if len(shots) == 1:
            return await self._one_or_part(request, shots[0])
        return await self._several(request, shots)

    async def rendered_instance(self, request: Request) -> Response:
        return await self._one_or_part(request, _Shot(await self._place(request), 1))

    async def rendered_series(self, request: Request) -> Response:
        params = request.path_params
        view = await self._views.view(params["study"], params["series"])
        return await self._several(request, [_Shot(one, 1) for one in view.places.values()])

    async def rendered_study(self, request: Request) -> Response:
        study_uid = request.path_params["study"]
        found = await asyncio.to_thread(self._gateway.services.instances, study_uid)
        if not found:
            raise NotFound(f"no study {study_uid}")
        uids = dict.fromkeys(one.record.series_uid for one in found)
        views = [await self._views.view(study_uid, uid) for uid in uids]
        return await self._several(
            request, [_Shot(one, 1) for view in views for one in view.places.values()]
        )

    async def _one_or_part(self, request: Request, shot: _Shot) -> Response:
        media, multipart = _media(request)
        wanted = read_wanted(request.query_params, media)
        if not multipart:
            return await self._one(request, shot, wanted)
        return await self._several(request, [shot])

    async def _one(self, request: Request, shot: _Shot, wanted: Wanted) -> Response:
        tag = _tag([shot], wanted)
        if (same := not_modified(request, tag, "Accept")) is not None:
            return same
        if shot.place.frames == 0:
            raise UnsupportedPixels("the instance has no pixels")
        body = self._kept.get(tag)
        if body is None:
            body = await asyncio.to_thread(self._picture, shot, wanted)
        return Response(body, media_type=wanted.media_type, headers={**_HEADERS, "ETag": tag})

    async def _several(self, request: Request, shots: list[_Shot]) -> Response:
        """Send pictures as parts, one at a time in memory; what has no pixels is left out."""
        media, _ = _media(request, several=True)
        wanted = read_wanted(request.query_params, media)
        tag = _tag(shots, wanted, weak=True)
        if (same := not_modified(request, tag, "Accept")) is not None:
            return same
        shown = [shot for shot in shots if shot.place.frames > 0]
        if not shown:
            raise UnsupportedPixels("nothing here has pixels")
        # 206: some of the instances cannot be shown (PS3.18 table 10.4.3-1).
        status = 200 if len(shown) == len(shots) else 206
        headers = {**_HEADERS, "Content-Type": content_type(media)}
        if status == 200:
            headers["ETag"] = tag
        if request.method == "HEAD":
            return StreamingResponse(iter(()), status, headers=headers)
        pieces = self._parts(shown, wanted, root_url(request), partly=PARTLY in request.scope)
        # The first before the status: if nothing can be shown, it becomes a problem.
        first = await asyncio.to_thread(next, pieces, b"")
        return StreamingResponse(streamed(first, pieces), status, headers=headers)

    def _parts(
        self, shots: list[_Shot], wanted: Wanted, root: str, *, partly: bool
    ) -> Iterator[bytes]:
        """Yield the parts. What cannot be shown after all is left out; raises if nothing can.

        Unless ``partly``, what left the image tiers is waited for by whoever is told InstanceAway.
        """
        first = True
        failed: RaypacsError | None = None
        for shot in shots:
            record = shot.place.stored.record
            try:
                picture = self._picture(shot, wanted)
            except RaypacsError as exc:
                if isinstance(exc, InstanceAway) and not partly:
                    if first:
                        raise
                    self._gateway.restores.missed(record.study_uid)
                _log.warning("picture of %s is left out: %s", record.sop_instance_uid, exc)
                failed = exc
                continue
            where = (
                f"{root}/studies/{record.study_uid}/series/{record.series_uid}/instances/"
                f"{record.sop_instance_uid}/frames/{shot.number}/rendered"
            )
            yield part_head(wanted.media_type, first=first, location=where) + picture
            first = False
        if first and failed is not None:
            raise failed
        yield TAIL

    # Thumbnails -----------------------------------------------------------------------------

    async def thumbnail_frame(self, request: Request) -> Response:
        place = await self._place(request)
        numbers = _frame_numbers(request.path_params["frames"], place.frames)
        if len(numbers) > 1:
            raise Problem(400, "a thumbnail is of one frame")
        return await self._thumbnail(request, [_Shot(place, numbers[0])])

    async def thumbnail_instance(self, request: Request) -> Response:
        place = await self._place(request)
        if place.frames == 0:
            raise NotFound("the instance has no pixels, so no thumbnail")
        return await self._thumbnail(request, [_Shot(place, middle_frame(place))])

    async def thumbnail_series(self, request: Request) -> Response:
        params = request.path_params
        return await self._series_thumbnail(request, params["study"], params["series"])

    async def thumbnail_study(self, request: Request) -> Response:
        study_uid = request.path_params["study"]
        found = await asyncio.to_thread(self._gateway.services.instances, study_uid)
        if not found:
            raise NotFound(f"no study {study_uid}")
        failed: RaypacsError = NotFound("no series of the study has pixels, so no thumbnail")
        for uid in series_in_order(found)[:MOST_TRIES]:
            try:
                return await self._series_thumbnail(request, study_uid, uid)
            except _UNSHOWN as exc:
                failed = exc
        raise failed

    async def _series_thumbnail(
        self, request: Request, study_uid: str, series_uid: str
    ) -> Response:
        view = await self._views.view(study_uid, series_uid)
        places = candidates(view.places.values())
        if not places:
            raise NotFound("no instance of the series has pixels, so no thumbnail")
        return await self._thumbnail(
            request, [_Shot(place, middle_frame(place)) for place in places]
        )

    async def _thumbnail(self, request: Request, shots: list[_Shot]) -> Response:
        """Return the first of the pictures that can be shown."""
        media, multipart = _media(request)
        if multipart:
            raise Problem(406, "a thumbnail is a single part", Vary="Accept")
        wanted = read_wanted(request.query_params, media, Viewport(SIDE, SIDE))
        failed: RaypacsError | None = None
        for shot in shots:
            try:
                return await self._one(request, shot, wanted)
            except _UNSHOWN as exc:
                failed = exc
        assert failed is not None
        raise failed

    # Both -----------------------------------------------------------------------------------

    def _picture(self, shot: _Shot, wanted: Wanted) -> bytes:
        """Return the encoded picture, made once for all who ask at the same time; blocks."""

        def make() -> tuple[bytes, int]:
            header = self._sources.header(shot.place)
            level = self._sources.level(shot.place, shot.number, header, wanted)
            made = render_level(level, header, shot.number, wanted)
            return made, len(made)

        return self._kept.once(_tag([shot], wanted), make)

    async def _place(self, request: Request) -> Place:
        params = request.path_params
        return await self._views.place(params["study"], params["series"], params["instance"])


def _media(request: Request, *, several: bool = False) -> tuple[str, bool]:
    """Return media type and whether multipart. Raises Problem, 406."""
    accept = read_accept(request.scope)
    chosen = choose_picture(accept, several=several)
    if chosen is None:
        several_too = several and choose_picture(accept) is not None
        how = "multipart/related of " if several_too else ""
        raise Problem(406, f"pictures come as {how}{', '.join(MEDIA_TYPES)}", Vary="Accept")
    return chosen


def _tag(shots: list[_Shot], wanted: Wanted, *, weak: bool = False) -> str:
    numbers = ",".join(str(shot.number) for shot in shots)
    places = {shot.place.stored.record.sop_instance_uid: shot.place for shot in shots}
    return tag_of(places.values(), f"rendered {numbers} {wanted}", weak=weak)


def _frame_numbers(listed: str, frames: int) -> list[int]:
    """Return the numbers of a frame list (PS3.18 section 8.2).

    Raises:
        Problem: 400, not a list of numbers. NotFound: one is beyond the last frame.
    """
    texts = listed.split(",")
    if not listed.isascii() or not all(text.isdigit() and len(text) <= 10 for text in texts):
        raise Problem(400, f"frame list {listed!r} is not numbers joined by commas")
    numbers = list(map(int, texts))
    if len(numbers) > _MOST_FRAMES or min(numbers) < 1:
        raise Problem(400, f"a frame list has 1 to {_MOST_FRAMES} numbers from 1")
    if frames and max(numbers) > frames:
        raise NotFound(f"no frame {max(numbers)}; the instance has {frames}")
    return numbers
