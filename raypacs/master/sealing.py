"""The master's duty to seal studies that stay as they are."""

from __future__ import annotations

from raypacs.master.base import MasterBase


class SealDuties(MasterBase):
    """Sealing: instances of quiet studies become manifests."""
