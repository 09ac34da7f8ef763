"""What all web resources of one process share: services, caches of places, readers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pydicom import Dataset
from starlette.requests import Request
from starlette.responses import Response

from raypacs.config import Settings
from raypacs.errors import InstanceAway, RestoreFailed
from raypacs.web import pixels
from raypacs.web.frames import Frames
from raypacs.web.instances import Instances
from raypacs.web.metadata import Metadata
from raypacs.web.overviews import Overviews
from raypacs.web.places import Place, SeriesViews
from raypacs.web.restores import Restores
from raypacs.web.services import Services

_SETTINGS_TTL_S = 5.0
PARTLY = "raypacs.partly"
"""In the scope of a request: instances that are nowhere are left out of its answer."""


@dataclass
class Gateway:
    """One per process; the parts are wired here and nowhere else."""

    services: Services
    prefix: str = "/dicom-web"
    cors_origin: str = "*"
    """Access-Control-Allow-Origin of DICOMweb; '' sends no CORS headers. Never sent for REST."""
    views: SeriesViews = field(init=False)
    frames: Frames = field(init=False)
    metadata: Metadata = field(init=False)
    instances: Instances = field(init=False)
    overviews: Overviews = field(init=False)
    restores: Restores = field(init=False)
    _settings: Settings | None = None
    _settings_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.views = SeriesViews(self.services)
        self.frames = Frames(self.services, self.views.files)
        self.metadata = Metadata(self.frames, self.settings)
        self.instances = Instances(self.frames)
        self.overviews = Overviews()
        self.restores = Restores(self.services, self.views, self.frames, self.settings)

    def settings(self) -> Settings:
        """Return the settings, read from the index at most every few seconds; blocks."""
        now = time.monotonic()
        if self._settings is None or now - self._settings_at_s > _SETTINGS_TTL_S:
            self._settings = self.services.settings()[1]
            self._settings_at_s = now
        return self._settings

    def max_instance_bytes(self) -> int:
        """Return the largest object accepted; blocks."""
        return self.settings().max_instance_bytes

    def header(self, place: Place) -> Dataset:
        """Return the header of an instance as a pydicom data set; blocks."""
        record = place.stored.record
        if place.is_coded and place.pack is not None:
            data = place.pack.reader.header_bytes(record.sop_instance_uid, prepared=False)
            return pixels.read_header(data, meta=False)
        with self.frames.original(place) as stream:
            before = record.pixel_offset_bytes if record.pixel_offset_bytes > 0 else -1
            return pixels.read_header(stream.read(before))

    def patient(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return a handler that waits for what is only in a library (``restores``)."""

        async def answered(request: Request) -> Response:
            params = request.path_params
            study_uid = params["study"]

            async def read() -> Response:
                if "instance" not in params:
                    await self.restores.whole(study_uid, params.get("series", ""))
                return await endpoint(request)

            try:
                return await self.restores.reading(study_uid, read)
            except (InstanceAway, RestoreFailed):
                if "instance" in params:
                    raise
                # What is lost must not keep the rest from being read.
                request.scope[PARTLY] = True
                return await endpoint(request)

        return answered

    @staticmethod
    def source(sent: str | None, default: str) -> str:
        """Return the name of the sender: 1 to 64 printable ASCII characters."""
        name = (sent or "").strip()
        return name if 1 <= len(name) <= 64 and name.isascii() and name.isprintable() else default
