"""The 3-D overview of a series: ``.../series/{}/overview3d`` (not part of PS3.18).

Any plane as a picture, the volume as a NumPy array, what is known of it as JSON, or the compact
form as it lies in the pack. Decoded volumes are kept, the least recently used go first.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import imagecodecs
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from raypacs import __version__
from raypacs.codec import volume as codec
from raypacs.codec import volume_planes as planes
from raypacs.codec.frame_geometry import frames_of
from raypacs.codec.geometry import find_stack
from raypacs.errors import NotFound, UnsupportedPixels
from raypacs.storage.pack_format import HTJ2K
from raypacs.web.gateway import Gateway
from raypacs.web.hot import read_accept
from raypacs.web.negotiate import choose_plain
from raypacs.web.places import OpenPack, SeriesView
from raypacs.web.problem import Problem
from raypacs.web.responses import not_modified, root_url
from raypacs.web.volume_query import PlaneAsked, Query, plane_of, read_query

NPY = "application/x-npy"
PNG = "image/png"
JSON = "application/json"
_FORMATS = {"npy": NPY, "png": PNG, "json": JSON, "rpv3": codec.MEDIA_TYPE}
_MOST_REASONS = 256


def volume_routes(gateway: Gateway) -> list[Route]:
    """Return the routes of 3-D overviews, below the DICOMweb root."""
    resource = _Overview3d(gateway)
    path = "/studies/{study}/series/{series}/overview3d"
    return [Route(path, resource.get, methods=["GET", "HEAD"])]


@dataclass(frozen=True, slots=True)
class Found:
    """The volume that answers for a series, and whether it holds every frame of it."""

    pack: OpenPack
    header: codec.VolumeHeader
    size_bytes: int
    series_frames: int

    @property
    def complete(self) -> bool:
        """Whether every frame of the series, as far as it is known now, is in the volume."""
        return self.header.facts.frames == self.series_frames


@dataclass
class Volumes:
    """Finds and decodes volumes; keeps at most ``most_bytes`` of decoded ones. Blocks."""

    most_bytes: int = 64 * 1024 * 1024
    _kept: OrderedDict[str, codec.Volume] = field(default_factory=OrderedDict)
    _kept_bytes: int = 0
    _headers: OrderedDict[str, tuple[codec.VolumeHeader, int]] = field(default_factory=OrderedDict)
    _reasons: OrderedDict[tuple[str, ...], str] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def find(self, view: SeriesView) -> Found:
        """Return the volume of most frames among the packs of a series, the latest of equals.

        Raises:
            NotFound: there is none; the message is the reason.
        """
        having = [pack for pack in view.packs if pack.reader.has_volume]
        if not having:
            raise NotFound(f"no 3-D overview: {self._reason(view)}")
        headers = [self._header(pack) for pack in having]
        best = max(range(len(having)), key=lambda n: (headers[n][0].facts.frames, n))
        total = sum(place.frames for place in view.places.values())
        return Found(having[best], *headers[best], total)

    def volume(self, pack: OpenPack) -> codec.Volume:
        """Return the decoded volume of a pack. Raises NotFound, PackCorrupt."""
        path = pack.ref.pack_path
        with self._lock:
            found = self._kept.get(path)
            if found is not None:
                self._kept.move_to_end(path)
                return found
        # One at a time: whoever asks for the same next finds it made.
        with self._making:
            with self._lock:
                found = self._kept.get(path)
            if found is not None:
                return found
            made = codec.decode_volume(pack.reader.read_volume())
            with self._lock:
                self._kept[path] = made
                self._kept_bytes += made.voxels.nbytes
                while self._kept_bytes > self.most_bytes and len(self._kept) > 1:
                    _, dropped = self._kept.popitem(last=False)
                    self._kept_bytes -= dropped.voxels.nbytes
        return made

    def _header(self, pack: OpenPack) -> tuple[codec.VolumeHeader, int]:
        """Return the header of a pack's volume, and the bytes of the coded volume."""
        path = pack.ref.pack_path
        with self._lock:
            found = self._headers.get(path)
        if found is None:
            data = pack.reader.read_volume()
            found = codec.read_header(data), len(data)
            _keep(self._lock, self._headers, path, found)
        return found

    def _reason(self, view: SeriesView) -> str:
        """Say why no pack of the series has a volume: asked of the headers, kept."""
        if not view.packs:
            return "the series is not prepared yet"
        key = tuple(pack.ref.pack_path for pack in view.packs)
        with self._lock:
            found = self._reasons.get(key)
        if found is None:
            largest = max(view.packs, key=lambda pack: len(pack.reader.instances))
            found = _why_none(largest)
            if len(view.packs) > 1:
                found = f"the series lies in {len(view.packs)} packs; in the largest {found}"
            _keep(self._lock, self._reasons, key, found)
        return found


def _keep(lock: threading.Lock, kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    with lock:
        kept[key] = value
        while len(kept) > _MOST_REASONS:
            kept.popitem(last=False)


def _why_none(pack: OpenPack) -> str:
    instances = pack.reader.instances
    prepared = {uid for uid, one in instances.items() if one.form == HTJ2K and not one.low_own}
    if not prepared:
        return "no frame is in wavelet form"
    frames = []
    for instance in json.loads(gzip.decompress(pack.reader.metadata_gzip())):
        if (instance.get("00080018", {}).get("Value") or [""])[0] in prepared:
            frames += frames_of(instance)
    try:
        find_stack(frames)
    except UnsupportedPixels as exc:
        return str(exc)
    return "none was made when the series was prepared; prepare it again, or see the node's log"


class _Overview3d:
    """The handler."""

    def __init__(self, gateway: Gateway) -> None:
        self._views = gateway.views
        self._volumes = Volumes()

    async def get(self, request: Request) -> Response:
        """Answer GET and HEAD."""
        query = read_query(request.query_params)
        media = _media(request, query)
        params = request.path_params
        view = await self._views.view(params["study"], params["series"])
        found = await asyncio.to_thread(self._volumes.find, view)
        tag = _tag(found, media, request.url.query)
        if (same := not_modified(request, tag, "Accept")) is not None:
            return same
        body = await asyncio.to_thread(self._body, found, media, query)
        headers = {"ETag": tag, "Vary": "Accept", "Cache-Control": "private, no-cache"}
        if not found.complete:
            # Pictures and arrays cannot say it themselves; PS3.18 warns in the same way.
            shown, total = found.header.facts.frames, found.series_frames
            text = f"{shown} of {total} frames of the series are in this volume"
            headers["Warning"] = f'299 {root_url(request)}: "{text}"'
        return Response(body, media_type=media, headers=headers)

    def _body(self, found: Found, media: str, query: Query) -> bytes:
        if media == JSON:
            return json.dumps(describe(found)).encode()
        if media == codec.MEDIA_TYPE:
            return found.pack.reader.read_volume()
        volume = self._volumes.volume(found.pack)
        if media == PNG:
            return _png(volume, query)
        out = io.BytesIO()
        np.save(out, volume.voxels, allow_pickle=False)
        return out.getvalue()


def _media(request: Request, query: Query) -> str:
    """Return the media type to answer with: ``format``, a plane, or Accept.

    Raises:
        Problem: 406.
    """
    if query.format:
        return _FORMATS[query.format]
    offered: Sequence[str] = tuple(_FORMATS.values())
    if query.plane is not None:
        offered = (PNG,)
    media = choose_plain(read_accept(request.scope), tuple(offered))
    if media is None:
        raise Problem(406, f"3-D overviews are {', '.join(offered)}", Vary="Accept")
    return media


def _tag(found: Found, media: str, query: str) -> str:
    # A token names an attempt, which prepares all series of a study: the path names the pack.
    text = f"{__version__} {found.pack.ref.pack_path} {found.series_frames} {media} {query}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'


def _png(volume: codec.Volume, query: Query) -> bytes:
    facts = volume.header.facts
    plane = plane_of(volume.header, query.plane or PlaneAsked("axial"))
    values, inside = planes.cut(volume, plane)
    grey = planes.shown(
        values, inside, query.window or facts.window, inverted=facts.photometric == "MONOCHROME1"
    )
    return bytes(imagecodecs.png_encode(grey, level=1))


def describe(found: Found) -> dict[str, Any]:
    """Return what is known of a volume, for JSON."""
    header, facts = found.header, found.header.facts
    integers = codec.modality_voxels_are_integers(header)
    steps = np.linalg.norm(np.array(facts.affine)[:3, :3], axis=0)
    return {
        "shape": list(header.shape),
        "type": "int16" if integers else "float32",
        "affine": [list(row) for row in facts.affine],
        "spacing_mm": [float(step) for step in steps],
        "modality": facts.modality,
        "units": facts.units,
        "photometric": facts.photometric,
        "window": {"center": facts.window[0], "width": facts.window[1]},
        "frame_of_reference_uid": facts.frame_of_reference_uid,
        "tilt_degrees": facts.tilt_degrees,
        "frames": facts.frames,
        "instances": facts.instances,
        "series_frames": found.series_frames,
        "complete": found.complete,
        "repeats": facts.repeats,
        "source": {
            "rows": facts.source_rows,
            "columns": facts.source_columns,
            "halvings": facts.halvings,
            "slice_halvings": facts.slice_halvings,
            "raw_bytes": facts.raw_bytes,
        },
        "bytes": found.size_bytes,
        "loss": asdict(header.loss),
        "planes": {name: asdict(planes.axis(header, name)) for name in planes.AXES},
    }
