"""Two thousand damaged files: no worker ends by one, and none passes the proof wrongly."""

from __future__ import annotations

from pathlib import Path

import mutations

COUNT = 2_000


def test_damaged_files_never_end_a_worker_nor_pass_the_proof_wrongly(tmp_path: Path) -> None:
    found = mutations.run(range(COUNT), tmp_path, processes=2)
    assert not found.wrong, "\n".join(found.wrong)
    assert sum(found.kinds.values()) == COUNT
    # The damage is of every kind: some is refused, some copied, and some files survive it.
    proven = found.kinds["confirmed"] + found.kinds["unconfirmed"]
    assert found.kinds["refused"] > COUNT // 20
    assert found.kinds["copied"] > COUNT // 20
    assert found.kinds["confirmed"] > COUNT // 20
    assert found.kinds["unconfirmed"] < proven // 4, found.kinds
