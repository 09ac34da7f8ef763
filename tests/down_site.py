"""A site whose node is stopped and started again, its index lost or replaced in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from raypacs.config import Bootstrap
from tests.real_site import RealSite
from tests.web_world import image_file

STUDY, OTHER = "1.2.3", "1.2.4"
NOW = 1_800_000_000.0
_KEPT = ("attributes", "state", "series_count", "instance_count", "size_bytes", "prepared_count")
_KEPT += ("transcoded_count", "proven_count", "raw_bytes", "prepared_bytes", "aside_count")


def files(study: str = STUDY, *, series: int = 2, count: int = 3, shade: int = 0) -> list[bytes]:
    return [
        image_file(
            np.arange(64, dtype=np.uint16).reshape(8, 8) + number + shade,
            number,
            study=study,
            series=f"{study}.{one}",
            bits_stored=12,
        )
        for one in range(1, series + 1)
        for number in range(1, count + 1)
    ]


class Down:
    """A site whose node was stopped; its index may be lost or replaced."""

    def __init__(self, tmp_path: Path, url: str) -> None:
        self.site = RealSite(tmp_path, url)
        self.folder, self.url = tmp_path, url
        self.running = True

    def stop(self) -> dict[str, Any]:
        """Stop it; return what it answered."""
        told = self.told()
        self.site.close()
        self.running = False
        return told

    def told(self) -> dict[str, Any]:
        reader = self.site.reader
        return {
            "studies": {
                one["study_uid"]: {name: one[name] for name in _KEPT} for one in reader.studies()
            },
            "series": reader.search_series({}),
            "instances": reader.search_instances({}),
            "packs": {uid: reader.packs(uid) for uid in (STUDY, OTHER)},
            "asides": sorted((one.tier, one.path, one.outcome) for one in reader.aside()),
            "used": {name: row.used_bytes for name, row in reader.ledger().items()},
        }

    def start(self, url: str = "") -> RealSite:
        """Start it again, on another index."""
        self.site = RealSite(self.folder, url or self.url)
        self.running = True
        return self.site

    def boot(self, url: str) -> Bootstrap:
        return Bootstrap(data_dir=self.folder, node_name="n1", index_url=url)

    def close(self) -> None:
        if self.running:
            self.site.close()
