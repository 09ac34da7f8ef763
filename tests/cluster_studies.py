"""Small studies for cluster tests: sent, and checked on the tiers when all is over."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

from cluster_hosts import Cluster, Host, wait_for
from pydicom import Dataset

from raypacs import layout
from raypacs.client import Client
from raypacs.index.sealed_reader import SealedReader
from raypacs.maintenance.rebuild import orphans
from raypacs.storage.manifest import Manifests
from raypacs.storage.pack import Pack
from raypacs.storage.tier import open_tier
from raypacs.synthetic import CtSeries, ct_instances


def studies(count: int, slices: int, first_seed: int, size: int = 64) -> list[list[Dataset]]:
    """Generate small CT studies, each with its own UIDs."""
    base = CtSeries(slices=slices, rows=size, columns=size)
    return [list(ct_instances(replace(base, seed=first_seed + n))) for n in range(count)]


def uids_of(sent: Iterable[list[Dataset]]) -> set[str]:
    """Return the Study Instance UIDs."""
    return {str(study[0].StudyInstanceUID) for study in sent}


def send(host: Host, sent: Iterable[list[Dataset]], *, complete: bool = True) -> set[str]:
    """Ingest studies through a node; return their UIDs. A sender repeats what was not answered."""
    told = list(sent)
    with Client(host.url, patience_s=90) as client:
        for study in told:
            for dataset in study:
                buffer = io.BytesIO()
                dataset.save_as(buffer, enforce_file_format=True)
                data = buffer.getvalue()
                answer = client.ingest(data, size_bytes=len(data), source="TEST")
                assert answer["outcome"] in ("stored", "known"), answer
        if complete:
            client.complete(uids_of(told))
    return uids_of(told)


def wait_prepared(cluster: Cluster, uids: set[str], timeout_s: float = 240.0) -> None:
    """Wait until nothing is left to do for these studies."""
    reader = cluster.reader()
    left = set(uids)

    def prepared() -> bool:
        # Idle also when not registered yet, so the instances are looked at as well.
        for uid in list(left):
            stored = reader.instances(uid)
            if stored and all(one.form for one in stored) and reader.idle(uid):
                left.discard(uid)
        return not left

    try:
        wait_for(prepared, f"{len(uids)} prepared studies", timeout_s)
    finally:
        reader.close()


def check_prepared_once(cluster: Cluster, uids: set[str]) -> None:
    """Every instance is in exactly one pack on the tiers, proven: effects counted, not states."""
    reader = cluster.reader()
    tiers = {tier.name: open_tier(tier) for tier in reader.settings()[1].tiers}
    for uid in uids:
        stored = reader.instances(uid)
        assert stored
        assert {one.form for one in stored} == {"htj2k"}
        seen: Counter[str] = Counter()
        for refs in reader.packs(uid).values():
            for ref in refs:
                seen.update(Pack(tiers[ref.tier], ref).instances.keys())
        assert seen == {one.record.sop_instance_uid: 1 for one in stored}
        assert reader.study(uid)["lossless_proven"]
    reader.close()


def orphans_of(cluster: Cluster) -> list[str]:
    """Return the objects on the tiers that nothing in the index knows, and why."""
    with closing(cluster.reader()) as reader:
        tiers = {tier.name: open_tier(tier) for tier in reader.settings()[1].tiers}
    with closing(SealedReader(cluster.index_url, Manifests(tiers.__getitem__).rows)) as sealed:
        return [f"{one.path}: {one.why}" for one in orphans(sealed, [*tiers.values()])]


def wait_clean(cluster: Cluster, *, but_parts: bool = False, timeout_s: float = 120.0) -> None:
    """Wait until nothing on the tiers is unknown to the index (sweeps come twice).

    ``but_parts``: parts of attempts that ended may lie there, which every new master sweeps.
    """
    left: list[str] = []

    def clean() -> bool:
        left[:] = orphans_of(cluster)
        return all(but_parts and path.startswith(layout.ATTEMPTS) for path in left)

    try:
        wait_for(clean, "tiers without orphans", timeout_s)
    finally:
        if left:
            print(f"\n{len(left)} orphans, such as {left[:5]}")
