"""Views of series: what one series must not answer for another, and how they grow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_web_unprepared import octets
from web_world import World, image_file, served

from raypacs.codec.overview import decode_overview

STUDY = "/dicom-web/studies/1.2.3"
ROOT = STUDY + "/series/1.2.3.1"
RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 4096, (4, 64, 72), np.uint16)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


def test_overviews_of_series_prepared_by_one_attempt_differ(world: World) -> None:
    world.add(
        image_file(PIXELS[0], 1, series="1.2.3.1", bits_stored=12),
        image_file(PIXELS[1], 1, series="1.2.3.2", bits_stored=12),
    )
    assert len({one.token for one in world.prepare()}) == 1
    tags = set()
    with served(world) as client:
        for series, pixels in (("1.2.3.1", PIXELS[0]), ("1.2.3.2", PIXELS[1])):
            for kind in ("*/*", 'multipart/related; type="image/jphc"'):
                answer = client.get(
                    f"{STUDY}/series/{series}/overview?level=0", headers={"Accept": kind}
                )
                tags.add(answer.headers["etag"])
                if kind == "*/*":
                    _, frames = decode_overview(answer.content)
                    assert [frame.sop_instance_uid for frame in frames] == [f"{series}.1"]
                    assert np.array_equal(frames[0].pixels, pixels)
    assert len(tags) == 4


def test_instances_added_to_a_prepared_series_are_seen(world: World) -> None:
    world.add(*(image_file(PIXELS[n], n + 1, bits_stored=12) for n in range(3)))
    world.prepare()
    with served(world) as client:
        before = client.get(ROOT + "/metadata")
        assert len(before.json()) == 3
        assert len(octets(client.get(ROOT))) == 3
        overview = client.get(ROOT + "/overview")
        world.add(image_file(PIXELS[3], 4, bits_stored=12))
        known = {"If-None-Match": before.headers["etag"]}
        deadline = time.monotonic() + 10
        # Nobody asks for the new instance by its name: the index has to be asked.
        while (found := client.get(ROOT + "/metadata", headers=known)).status_code == 304:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(found.json()) == 4
        assert len(octets(client.get(ROOT))) == 4
        assert client.get(ROOT + "/overview").headers["etag"] != overview.headers["etag"]
