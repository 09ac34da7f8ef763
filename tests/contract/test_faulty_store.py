"""S3 tiers while their store is slow, fails, throttles, fills up or hangs.

Whatever happens: what was acknowledged is there, nothing is there by half, no object is lost, every
call ends, and the error says which it was.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from faulty_store import PASS, Fate, FaultyStore, Request, faulty_store, first, full_after
from s3_server import S3Server

from raypacs.config import TierSettings
from raypacs.errors import AlreadyExists, NotFound, TierFull, TierUnavailable
from raypacs.storage import s3 as s3_module
from raypacs.storage import s3_errors
from raypacs.storage.s3 import S3Tier
from raypacs.storage.tier import open_tier

PART = 5 * 1024 * 1024
TIMEOUT_S = 0.5
PATH = "studies/1.2/1.3/1.4.aa.dcm"
SMALL, LARGE = b"small object", os.urandom(2 * PART + 1000)
_PREFIXES = itertools.count(1)

BUSY = Fate(status=503, code="SlowDown")
BROKEN = Fate(status=500, code="InternalError")
RESET = Fate(reset=True)
LOST = Fate(lose_answer=True)


class World:
    """A tier behind the proxy, and the same one without it."""

    def __init__(self, s3: S3Server, bucket: str, proxy: FaultyStore) -> None:
        self.proxy = proxy
        self.client: Any = s3.client()
        self.bucket = bucket
        self._url = f"s3://{bucket}/p{next(_PREFIXES)}"
        self.direct = self.open(s3.endpoint, timeout_s=10)
        self.tier = self.open(proxy.endpoint)
        self.proxy.seen.clear()

    def open(self, endpoint: str, *, timeout_s: float = TIMEOUT_S, **values: Any) -> S3Tier:
        access = {"endpoint_url": endpoint, "timeout_s": timeout_s, "part_bytes": PART}
        tier = open_tier(
            TierSettings.model_validate(
                {"name": "t1", "role": "image", "url": self._url, "s3": access} | values
            )
        )
        assert isinstance(tier, S3Tier)
        return tier

    def objects(self) -> list[str]:
        return [info.path for info in self.direct.walk()]

    def uploads(self) -> list[str]:
        prefix = self._url.rpartition("/")[2]
        found = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=prefix)
        return [one["UploadId"] for one in found.get("Uploads", ())]


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.bucket()


@pytest.fixture
def world(s3: S3Server, bucket: str) -> Iterator[World]:
    with faulty_store(s3.endpoint) as proxy:
        yield World(s3, bucket, proxy)


def _is_complete(request: Request) -> bool:
    return request.method == "POST" and "uploadId" in request.target


@pytest.mark.parametrize("fate", [BUSY, BROKEN, RESET, LOST], ids=["503", "500", "reset", "lost"])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_fault_that_passes_is_not_noticed(world: World, fate: Fate, data: bytes) -> None:
    world.proxy.decide = first(2, fate)
    assert world.tier.put_durable(PATH, data) == len(data)
    assert world.direct.read(PATH) == data
    world.proxy.decide = first(2, fate)
    assert world.tier.read(PATH) == data
    world.proxy.decide = first(2, fate)
    assert world.tier.read_ranges(PATH, [(0, 3), (len(data) - 3, 3)], gap_bytes=0) == [
        data[:3],
        data[-3:],
    ]
    world.proxy.decide = first(1, fate)
    assert world.tier.size(PATH) == len(data)
    world.proxy.decide = first(2, fate)
    assert [info.path for info in world.tier.walk()] == [PATH]
    world.proxy.decide = first(2, fate)
    world.tier.delete(PATH)
    assert world.objects() == []
    assert world.uploads() == [] or fate is LOST  # an upload whose begin got lost is swept later


@pytest.mark.parametrize("fate", [BUSY, BROKEN, RESET, Fate(hang=True)])
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_fault_that_stays_is_unavailable_and_leaves_nothing(
    world: World, fate: Fate, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_errors, "REPEAT_FOR", 0.6)  # otherwise a test of minutes
    world.proxy.decide = lambda request: fate if request.writes else PASS
    with pytest.raises(TierUnavailable):
        world.tier.put_durable(PATH, data)
    assert world.objects() == []
    assert world.uploads() == []
    world.proxy.decide = lambda request: fate
    for call in (world.tier.read, world.tier.size, world.tier.exists, world.tier.delete):
        with pytest.raises(TierUnavailable):
            call(PATH)
    with pytest.raises(TierUnavailable):
        world.tier.read_ranges(PATH, [(0, 1), (5, 1)], gap_bytes=0)
    with pytest.raises(TierUnavailable):
        list(world.tier.walk())
    world.proxy.decide = lambda request: PASS  # it is back: nothing has to be opened again
    assert world.tier.put_durable(PATH, data) == len(data)
    assert world.tier.read(PATH) == data


def test_an_upload_that_cannot_be_completed_leaves_nothing(world: World) -> None:
    world.proxy.decide = lambda request: BROKEN if _is_complete(request) else PASS
    with pytest.raises(TierUnavailable):
        world.tier.put_durable(PATH, LARGE)
    assert (world.objects(), world.uploads()) == ([], [])


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_what_the_store_has_done_counts_though_no_answer_comes(world: World, data: bytes) -> None:
    def decide(request: Request) -> Fate:
        last = _is_complete(request) or (request.writes and "partNumber" not in request.target)
        return LOST if last else PASS

    world.proxy.decide = decide
    assert world.tier.put_durable(PATH, data) == len(data)
    assert world.direct.read(PATH) == data
    world.proxy.decide = lambda request: PASS
    with pytest.raises(AlreadyExists):  # another writer's
        world.tier.put_durable(PATH, data[::-1])
    assert world.direct.read(PATH) == data


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (507, "XMinioStorageFull"),
        (403, "QuotaExceeded"),
        (400, "EntityTooLarge"),
        (413, ""),
        (400, "XMinioAdminBucketQuotaExceeded"),
    ],
)
def test_a_store_that_fills_up_is_full(world: World, status: int, code: str) -> None:
    world.proxy.decide = full_after(PART + 100, status, code)
    with pytest.raises(TierFull):
        world.tier.put_durable(PATH, LARGE)
    assert (world.objects(), world.uploads()) == ([], [])
    world.proxy.decide = full_after(100, status, code)
    paths = [f"studies/1/2/{number:03d}.dcm" for number in range(11)]
    for path in paths[:10]:
        world.tier.put_durable(path, b"0123456789")
    with pytest.raises(TierFull):
        world.tier.put_durable(paths[10], b"0123456789")
    assert world.objects() == paths[:10]


def test_a_throttled_store_is_asked_again_when_it_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    patient = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr(s3_errors, "time", patient)
    world.proxy.decide = first(2, Fate(status=503, code="SlowDown", headers={"Retry-After": "1"}))
    world.tier.put_durable(PATH, SMALL)
    assert slept[0] < 0.2  # obstore does not tell when to come back; botocore, asked next, does
    assert slept[1:] == [1.0]
    world.proxy.decide = first(1, Fate(status=429, code="Throttling"))
    assert world.tier.exists(PATH)
    assert 0 < slept[-1] < 0.2
    # One that asks for more patience than there is: told at once, so that others are asked.
    world.proxy.decide = first(1, Fate(status=503, code="SlowDown", headers={"Retry-After": "60"}))
    with pytest.raises(TierUnavailable, match="503 Service Unavailable"):
        world.tier.size(PATH)
    assert len(slept) == 3


def test_an_answer_cut_off_is_read_again(world: World) -> None:
    world.tier.put_durable(PATH, LARGE)
    world.proxy.decide = first(3, Fate(body_bytes=1000), lambda one: one.method == "GET")
    assert world.tier.read(PATH) == LARGE
    world.proxy.decide = first(2, Fate(body_bytes=100), lambda one: one.method == "GET")
    assert [info.path for info in world.tier.walk()] == [PATH]
    world.proxy.decide = lambda request: Fate(body_bytes=1000)
    with pytest.raises(TierUnavailable):
        world.tier.read(PATH)


def test_a_slow_store_is_waited_for_as_long_as_bytes_come(world: World) -> None:
    world.tier.put_durable(PATH, bytes(100_000))
    world.proxy.decide = lambda request: Fate(latency_s=0.2, bytes_per_s=100_000)
    assert len(world.tier.read(PATH)) == 100_000  # twice the timeout
    assert world.tier.size(PATH) == 100_000


def test_a_store_that_hangs_holds_nobody_for_ever(world: World) -> None:
    """No call waits longer than the limit that the settings promise (here far below the test's)."""
    world.proxy.decide = lambda request: Fate(hang=True)
    begun = threading.Event()
    ended: list[str] = []

    def call() -> None:
        begun.set()
        for what in (world.tier.read, world.tier.size):
            with pytest.raises(TierUnavailable):
                what(PATH)
        ended.append("in time")

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(60)
    assert ended == ["in time"]
    with pytest.raises(TierUnavailable):
        world.open(world.proxy.endpoint)


def test_missing_is_told_from_away(world: World, s3: S3Server) -> None:
    with pytest.raises(NotFound):
        world.tier.read(PATH)
    assert not world.tier.exists(PATH)
    bucket = s3.bucket()
    access = {"endpoint_url": s3.endpoint}
    told = {"name": "t2", "role": "image", "url": f"s3://{bucket}", "s3": access}
    tier = open_tier(TierSettings.model_validate(told))
    s3.client().delete_bucket(Bucket=bucket)
    for call in (tier.read, tier.size, tier.exists, tier.delete):
        with pytest.raises(TierUnavailable) as error:
            call(PATH)
        assert "bucket" in error.value.hint
    with pytest.raises(TierUnavailable):
        tier.put_durable(PATH, SMALL)
    with pytest.raises(TierUnavailable):
        list(tier.walk())
    with pytest.raises(TierUnavailable, match="no bucket"):
        open_tier(TierSettings.model_validate(told))


def test_keys_that_are_refused_are_told_so(world: World) -> None:
    world.proxy.decide = lambda request: Fate(status=403, code="AccessDenied")
    for call in (world.tier.read, world.tier.size, lambda path: world.tier.put_durable(path, b"x")):
        with pytest.raises(TierUnavailable) as error:
            call(PATH)
        assert "keys" in error.value.hint
    assert world.proxy.count("PUT") == 1  # not asked again and again


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_store_without_conditional_writes(world: World, data: bytes) -> None:
    def decide(request: Request) -> Fate:
        conditional = "if-none-match" in request.headers
        return Fate(status=501, code="NotImplemented") if conditional else PASS

    world.proxy.decide = decide
    world.tier.put_durable(PATH, data)
    with pytest.raises(AlreadyExists):
        world.tier.put_durable(PATH, data[::-1])
    assert world.direct.read(PATH) == data
    refused = sum("if-none-match" in one.headers for one in world.proxy.seen)
    assert refused == 1  # remembered


def test_one_request_a_read(world: World) -> None:
    world.direct.put_durable(PATH, SMALL)
    assert world.tier.read(PATH) == SMALL
    assert world.tier.read(PATH, 2, 3) == SMALL[2:5]
    assert [one.method for one in world.proxy.seen] == ["GET", "GET"]


def test_ranges_close_together_are_one_request(world: World) -> None:
    world.direct.put_durable(PATH, LARGE)
    near = [(at * 1000, 500) for at in range(100)]
    far = [(PART + at * 1000, 500) for at in range(100)]
    found = world.tier.read_ranges(PATH, near + far)
    assert found == [LARGE[start : start + length] for start, length in near + far]
    assert len(world.proxy.seen) == 2


def test_parts_go_out_while_the_object_is_written(world: World) -> None:
    with world.tier.create(PATH) as writer:
        for at in range(0, len(LARGE), 1 << 20):
            writer.write(LARGE[at : at + (1 << 20)])
        assert world.proxy.count("POST", "uploads") == 1
        assert world.objects() == []
        writer.commit()
    assert world.proxy.count("PUT", "partNumber") == 3
    assert world.direct.read(PATH) == LARGE


def test_uploads_of_dead_writers_are_swept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = world.direct.create("studies/1/2/0badc0de.pack")
    killed.__enter__()
    killed.write(LARGE)
    assert len(world.uploads()) == 1
    world.tier.prune("attempts/")
    assert len(world.uploads()) == 1  # it may be running
    monkeypatch.setattr(s3_module, "STALE_UPLOAD_S", -60.0)
    world.tier.prune("attempts/")
    assert len(world.uploads()) == 1  # asked for a moment ago
    monkeypatch.setattr(s3_module, "SWEEP_EVERY_S", 0.0)
    world.tier.prune("attempts/")
    assert (world.uploads(), world.objects()) == ([], [])


def test_uploads_of_other_programs_stay(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, client = s3.bucket(), s3.client()
    monkeypatch.setattr(s3_module, "STALE_UPLOAD_S", -60.0)
    keys = ("backup.tar", "studies/report.zip", "studies/1/2/3/4.bin", "studies/1.2/1.3/aa.pack")
    for key in keys:
        client.create_multipart_upload(Bucket=bucket, Key=key)
    settings = {"name": "t", "role": "web", "url": f"s3://{bucket}"}
    access = {"s3": {"endpoint_url": s3.endpoint}}
    tier = open_tier(TierSettings.model_validate(settings | access))
    assert isinstance(tier, S3Tier)
    assert tier.sweep_uploads() == 1
    left = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert {one["Key"] for one in left} == {*keys[:3]}


@pytest.mark.parametrize(
    "path", ["tab\tx", "bell\x07x", "delete\x7fx", "caf\u00e9 \u0436 %20+?#&=;"]
)
def test_any_character_may_stand_in_a_key(world: World, path: str) -> None:
    """obstore refuses control characters, which others' keys may have."""
    world.direct.put_durable(path, SMALL)
    assert world.objects() == [path]
    assert world.direct.read(path) == SMALL
    assert world.direct.read_ranges(path, [(0, 5), (6, 6)], gap_bytes=0) == [b"small", b"object"]
    world.direct.delete(path)


def test_a_forked_process_reads_and_writes(world: World) -> None:
    """Neither library's threads and connections survive a fork; the tier does."""
    world.tier.put_durable(PATH, LARGE)
    assert world.tier.read(PATH, 0, 5) == LARGE[:5]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            good = world.tier.read(PATH) == LARGE
            good &= world.tier.read_ranges(PATH, [(1, 2), (PART, 2)]) == [
                LARGE[1:3],
                LARGE[PART : PART + 2],
            ]
            world.tier.put_durable("studies/9/9/9.dcm", LARGE)
            status = 0 if good else 2
        finally:
            os._exit(status)
    until_s = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until_s:
        time.sleep(0.05)
    if ended[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert world.tier.read("studies/9/9/9.dcm") == LARGE


def test_many_threads_share_a_tier(world: World) -> None:

    def work(number: int) -> list[bytes]:
        path = f"studies/1/2/{number}.dcm"
        world.tier.put_durable(path, path.encode())
        assert world.tier.read(path) == path.encode()
        return world.tier.read_ranges(path, [(0, 2), (4, 2)], gap_bytes=0)

    world.proxy.decide = first(5, BUSY)
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(12))) == [[b"st", b"ie"]] * 12
    assert len(world.objects()) == 12
