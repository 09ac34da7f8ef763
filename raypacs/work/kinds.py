"""Which kinds of work this version can do, and how; what each takes of a node is in policy.kinds.

A new kind of work is a module here with a class like the others, and a line in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from raypacs.work.adopt import AdoptRun
from raypacs.work.archive import ArchiveRun
from raypacs.work.derive import DeriveRun
from raypacs.work.migrate import MigrateRun
from raypacs.work.prepare_run import PrepareRun
from raypacs.work.restore import RestoreRun
from raypacs.work.run import MakeRun
from raypacs.work.verify import VerifyRun

RUNS: Mapping[str, MakeRun] = MappingProxyType(
    {
        "PREPARE": PrepareRun,
        "DERIVE": DeriveRun,
        "VERIFY": VerifyRun,
        "ADOPT": AdoptRun,
        "ARCHIVE": ArchiveRun,
        "MIGRATE": MigrateRun,
        "RESTORE": RestoreRun,
        "PREFETCH": RestoreRun,
    }
)
