"""The master: one short method per event; decisions are in ``policy``, memory in ``index``."""

from raypacs.master.core import Master, Ticked
from raypacs.master.keeping import DELETE_GRACE_S

__all__ = ["DELETE_GRACE_S", "Master", "Ticked"]
