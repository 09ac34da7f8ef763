"""Local tiers on a file server that fails: what system calls answer on NFS on a bad day.

The same promises as for a store: nothing acknowledged that is not durable, nothing there by half,
the right error, and the tier works again when the server does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raypacs.config import TierSettings
from raypacs.errors import AlreadyExists, NotFound, TierFull, TierUnavailable
from raypacs.storage import folders as folders_module
from raypacs.storage import local as local_module
from raypacs.storage.local import LocalTier

A, B = "studies/1.2/1.3/1.4.aa.dcm", "studies/1.2/1.3/1.5.bb.dcm"
AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)


class FaultyServer:
    """The `os` that the tier's modules see; a named call fails with an error number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._fails: dict[str, Callable[..., Any]] = {}
        names = {name: getattr(os, name) for name in dir(os)}
        fake = SimpleNamespace(**names)
        for name in ("open", "close", "write", "link", "unlink", "stat", "fstat", "mkdir", "dup"):
            setattr(fake, name, self._guarded(name, names[name]))
        for name in ("pread", "scandir", "rmdir", "statvfs"):
            setattr(fake, name, self._guarded(name, names[name]))
        monkeypatch.setattr(local_module, "os", fake)
        monkeypatch.setattr(folders_module, "os", fake)
        self.sync = self._guarded("fsync", os.fsync)

    def _guarded(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            return self._fails.get(name, plain)(*args, **named)

        return call

    @contextmanager
    def failing(
        self, name: str, code: int, *, after: int = 0, done: bool = False
    ) -> Iterator[None]:
        """Let a call fail with ``code``; the first ``after`` work; ``done``: it works and fails."""
        plain = getattr(os, name)
        left = [after]

        def call(*args: Any, **named: Any) -> Any:
            if left[0] > 0:
                left[0] -= 1
                return plain(*args, **named)
            if done:
                plain(*args, **named)
            raise OSError(code, os.strerror(code))

        self._fails[name] = call
        try:
            yield
        finally:
            del self._fails[name]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FaultyServer:
    return FaultyServer(monkeypatch)


@pytest.fixture
def tier(server: FaultyServer, tmp_path: Path) -> LocalTier:
    told = TierSettings(name="t1", role="image", url=(tmp_path / "nas").as_uri())
    made = LocalTier(told, sync=server.sync)
    made.folders.unnamed_files = False  # no file server has them
    return made


def objects(tier: LocalTier) -> list[str]:
    return [info.path for info in tier.walk()]


@pytest.mark.parametrize("code", [*AWAY, *FULL])
@pytest.mark.parametrize("call", ["open", "write", "link", "fsync", "mkdir"])
def test_a_failed_write_leaves_nothing(
    server: FaultyServer, tier: LocalTier, call: str, code: int
) -> None:
    with (
        server.failing(call, code),
        pytest.raises(TierFull if code in FULL else TierUnavailable),
    ):
        tier.put_durable(A, b"object")
    assert objects(tier) == []
    assert tier.put_durable(A, b"object") == 6
    assert tier.read(A) == b"object"


@pytest.mark.parametrize("code", FULL)
def test_no_room_told_as_late_as_at_the_close(
    server: FaultyServer, tier: LocalTier, code: int
) -> None:
    """A part of an attempt is not flushed; an NFS client may tell at the close what it lacked."""
    with server.failing("close", code, done=True), pytest.raises(TierFull):
        tier.put_transient("attempts/x/1.part", b"part")
    assert objects(tier) == []


@pytest.mark.parametrize("call", ["close", "unlink"])
def test_what_fails_after_the_object_is_durable_changes_nothing(
    server: FaultyServer, tier: LocalTier, call: str
) -> None:
    tier.put_durable(B, b"opens the folders")
    with server.failing(call, errno.EIO, done=call == "close"):
        assert tier.put_durable(A, b"object") == 6
    assert objects(tier) == [A, B]
    assert tier.read(A) == b"object"


def test_the_second_flush_fails(server: FaultyServer, tier: LocalTier) -> None:
    tier.put_durable(B, b"opens the folders")
    with server.failing("fsync", errno.EIO, after=1), pytest.raises(TierUnavailable):
        tier.put_durable(A, b"object")
    assert objects(tier) == [B]


def test_a_link_whose_answer_was_lost_is_ours(server: FaultyServer, tier: LocalTier) -> None:
    """The kernel asks again and is told that the name is taken."""
    with server.failing("link", errno.EEXIST, done=True):
        assert tier.put_durable(A, b"object") == 6
    with pytest.raises(AlreadyExists):
        tier.put_durable(A, b"other")
    assert tier.read(A) == b"object"


@pytest.mark.parametrize("code", AWAY)
def test_away_is_not_missing(server: FaultyServer, tier: LocalTier, code: int) -> None:
    tier.put_durable(A, b"object")
    with server.failing("stat", code):
        for call in (tier.size, tier.exists, tier.delete):
            with pytest.raises(TierUnavailable):
                call(A)
    with server.failing("open", code), pytest.raises(TierUnavailable):
        tier.read(A)
    with server.failing("pread", code):
        with pytest.raises(TierUnavailable):
            tier.read(A)
        with pytest.raises(TierUnavailable):
            tier.read_ranges(A, [(0, 1), (3, 2)])
    with server.failing("scandir", code), pytest.raises(TierUnavailable):
        objects(tier)
    with server.failing("statvfs", code), pytest.raises(TierUnavailable):
        tier.free_bytes()
    with server.failing("unlink", code), pytest.raises(TierUnavailable):
        tier.delete(A)
    assert tier.exists(A)
    with pytest.raises(NotFound):
        tier.read(B)


def test_a_folder_the_server_forgot_is_opened_anew(server: FaultyServer, tier: LocalTier) -> None:
    tier.put_durable(A, b"opens the folders")
    folder = tier.folders.of(B)
    with server.failing("fstat", errno.ESTALE):
        assert folder.removed()
        assert tier.folders.of(B) is not folder
    tier.put_durable(B, b"object")
    assert objects(tier) == [A, B]
