"""A series written to and read from an S3 store: the tier beside plain clients, in turns.

The same bytes, the same server, the same number of threads. A series is 140 instances of 0.5 MB as
received, and the pack of 70 MB with its header sidecar that is made of them. The plain clients are
obstore and botocore with one call an object and nothing around it: no bounded repetition, nothing
counted, no check that an answer got lost; the faster of the two counts. What is written is always
new, and written on condition that it is.

A pack goes in parts of 16 MiB, four at once, as a store on a network likes it; so does obstore's
here. On loopback one request for all of it is faster with moto, which copies parts twice: shown
beside it without a target.

Two servers: moto, a real one in Python, which is the limit of both sides; and one that does next to
nothing, beside which the client's own costs show.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import botocore.session
import obstore
from botocore.config import Config
from obstore.store import S3Store

from benchmarks.figure import Figure, compare
from raypacs.config import TierSettings
from raypacs.object_store import S3Access
from raypacs.storage.s3_writer import PARTS_AT_ONCE
from raypacs.storage.tier import Tier, open_tier
from tests.s3_server import KEYS, s3_server

NAME = "s3"
DESCRIPTION = "a series to and from an S3 store, beside plain clients of it"

_INSTANCES = 140
_INSTANCE_BYTES = 500_000
_SIDECAR_BYTES = 300_000
_FRAMES = 400
_LOW_BYTES = 3_000
_PART_BYTES = S3Access().part_bytes
_AT_LEAST = 0.8
_THREADS = 4

Objects = dict[str, bytes]


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure; ``count`` is the number of instances."""
    rounds = 4 if quick else 9
    instances = count or _INSTANCES
    received = {f"{number}.dcm": os.urandom(_INSTANCE_BYTES) for number in range(instances)}
    pack = {"x.pack": os.urandom(instances * _INSTANCE_BYTES), "x.hdr": os.urandom(_SIDECAR_BYTES)}
    os.environ.update(KEYS)
    figures = []
    with s3_server() as server:
        bucket = server.bucket()
        label = f"moto {version('moto')}"
        figures += _Bench(server.endpoint, bucket, label, rounds).figures(received, pack)
    with _quick_store() as endpoint:
        figures += _Bench(endpoint, "bucket", "quick server", rounds).figures(received, pack)
    return figures


@contextmanager
def _quick_store() -> Iterator[str]:
    program = [sys.executable, str(Path(__file__).with_name("_quick_store.py"))]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


class _Bench:
    """One server, and the three ways to it."""

    def __init__(self, endpoint: str, bucket: str, label: str, rounds: int) -> None:
        self._bucket, self._label, self._rounds = bucket, label, rounds
        self._folders = itertools.count(1)
        told = {"url": f"s3://{bucket}/tier", "s3": {"endpoint_url": endpoint}}
        self._tier: Tier = open_tier(
            TierSettings.model_validate({"name": "t", "role": "image"} | told)
        )
        self._obstore = S3Store(
            bucket,
            endpoint=endpoint,
            region="us-east-1",
            client_options={"allow_http": True},
            access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )
        self._botocore: Any = botocore.session.Session().create_client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                max_pool_connections=_THREADS,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._pool = ThreadPoolExecutor(_THREADS)

    def figures(self, received: Objects, pack: Objects) -> list[Figure]:
        """Measure all of it."""
        with self._pool:
            found = []
            for what, objects in (("instances", received), ("pack", pack)):
                found += self._series(what, objects)
            found.append(self._frames(pack["x.pack"]))
        return found

    def _series(self, what: str, objects: Objects) -> list[Figure]:
        size_mb = sum(map(len, objects.values())) / 1e6
        writes = {"tier": self._put_tier, "obstore": self._put_obstore, "botocore": self._put_boto}
        reads = {"tier": self._get_tier, "obstore": self._get_obstore, "botocore": self._get_boto}
        written: dict[str, list[float]] = {name: [] for name in writes}
        read: dict[str, list[float]] = {name: [] for name in reads}
        for number in range(-1, self._rounds):
            names = [*writes][number % 3 :] + [*writes][: number % 3]  # nobody is always first
            for name in names:
                folder = f"{next(self._folders)}"
                write_s = self._timed(partial(writes[name], folder), objects)
                read_s = self._timed(partial(reads[name], folder), objects)
                self._forget(folder, objects)
                if number >= 0:  # one round to get warm
                    written[name].append(size_mb / write_s)
                    read[name].append(size_mb / read_s)
        figures = [self._beside(f"{what} read", read)]
        if max(map(len, objects.values())) <= _PART_BYTES:
            return [self._beside(f"{what} written", written), *figures]
        # In parts beside in parts; and, without a target, beside one request for all of it.
        whole = {"tier": written["tier"], "botocore": written.pop("botocore")}
        return [
            self._beside(f"{what} written in parts", written),
            self._beside(f"{what} written, beside one request", whole, at_least=None),
            *figures,
        ]

    def _timed(self, call: Callable[[str, bytes], int], objects: Objects) -> float:
        begun = time.perf_counter()
        sizes = list(self._pool.map(call, objects.keys(), objects.values()))
        took_s = time.perf_counter() - begun
        if sizes != [len(data) for data in objects.values()]:
            raise RuntimeError("not all of the bytes came through")
        return took_s

    def _beside(
        self, what: str, runs: dict[str, list[float]], *, at_least: float | None = _AT_LEAST
    ) -> Figure:
        """Compare with the plain client that was faster."""
        plain = [name for name in runs if name != "tier"]
        best = max(plain, key=lambda name: statistics.median(runs[name]))
        return compare(
            f"{what}, {self._label}",
            "MB/s",
            runs["tier"],
            beside=f"{best} {version(best)}",
            beside_runs=runs[best],
            at_least=at_least,
        )

    def _frames(self, pack: bytes) -> Figure:
        """Low parts of frames lie side by side in a pack: read together, and one by one."""
        self._tier.put_durable("frames/x.pack", pack)
        extents = [(number * _LOW_BYTES, _LOW_BYTES) for number in range(_FRAMES)]
        together: list[float] = []
        single: list[float] = []
        for _ in range(self._rounds):
            begun = time.perf_counter()
            found = self._tier.read_ranges("frames/x.pack", extents)
            together.append(_FRAMES / (time.perf_counter() - begun))
            begun = time.perf_counter()
            others = list(self._pool.map(partial(self._one, "frames/x.pack"), extents))
            single.append(_FRAMES / (time.perf_counter() - begun))
            if found != others:
                raise RuntimeError("ranges differ")
        return compare(
            f"low parts of {_FRAMES} frames, {self._label}",
            "frames/s",
            together,
            beside="one request each",
            beside_runs=single,
            at_least=1.0,
        )

    def _one(self, path: str, extent: tuple[int, int]) -> bytes:
        return self._tier.read(path, *extent)

    def _forget(self, folder: str, objects: Objects) -> None:
        for key in objects:
            for prefix in ("tier/", ""):
                self._botocore.delete_object(Bucket=self._bucket, Key=f"{prefix}{folder}/{key}")

    def _put_tier(self, folder: str, key: str, data: bytes) -> int:
        return self._tier.put_durable(f"{folder}/{key}", data)

    def _put_obstore(self, folder: str, key: str, data: bytes) -> int:
        if len(data) > _PART_BYTES:  # in parts like the tier's; it knows no condition for those
            obstore.put(
                self._obstore,
                f"{folder}/{key}",
                data,
                chunk_size=_PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        else:
            obstore.put(self._obstore, f"{folder}/{key}", data, mode="create")
        return len(data)

    def _put_boto(self, folder: str, key: str, data: bytes) -> int:
        self._botocore.put_object(
            Bucket=self._bucket, Key=f"{folder}/{key}", Body=data, IfNoneMatch="*"
        )
        return len(data)

    def _get_tier(self, folder: str, key: str, data: bytes) -> int:
        return len(self._tier.read(f"{folder}/{key}", 0, len(data)))  # the index knows the size

    def _get_obstore(self, folder: str, key: str, data: bytes) -> int:
        return len(bytes(obstore.get(self._obstore, f"{folder}/{key}").bytes()))

    def _get_boto(self, folder: str, key: str, data: bytes) -> int:
        answer = self._botocore.get_object(Bucket=self._bucket, Key=f"{folder}/{key}")
        return len(answer["Body"].read())
