"""One taker per SOP Instance UID on a node: claims as links in a shared folder.

Several listener and gateway processes may receive the same instance at the same moment. A claim is
a symbolic link named by a hash of the UID and pointing to the boot (the process run) that holds
it: one system call that either makes it with its content or fails. Claims need no flush: after a
power cut nobody holds any.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path


class Claims:
    """The claims of one process run, in a folder that all processes of the node share."""

    def __init__(self, folder: Path, boot: str) -> None:
        self._folder = folder
        self._boot = boot
        folder.mkdir(parents=True, exist_ok=True)

    def take(self, sop_instance_uid: str) -> bool:
        """Take the claim; False if somebody (also this process) holds it."""
        try:
            os.symlink(self._boot, self._name(sop_instance_uid))
        except FileExistsError:
            return False
        return True

    def release(self, sop_instance_uid: str) -> None:
        """Give the claim back."""
        try:
            os.unlink(self._name(sop_instance_uid))
        except FileNotFoundError:
            pass

    def sweep(self, lost: Callable[[str], bool]) -> int:
        """Remove the claims of process runs that are ``lost``; return how many."""
        removed = 0
        for name in os.listdir(self._folder):
            path = self._folder / name
            try:
                if not lost(os.readlink(path)):
                    continue
                os.unlink(path)
            except FileNotFoundError:  # released meanwhile
                continue
            removed += 1
        return removed

    def _name(self, sop_instance_uid: str) -> str:
        digest = hashlib.blake2b(sop_instance_uid.encode(), digest_size=16).hexdigest()
        return f"{self._folder}/{digest}"
