"""The cache statistics notebook runs on statistics that a master wrote, and agrees with it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path

import factories
import nbformat
import pytest
from nbclient import NotebookClient

from raypacs.index.queue import PREPARE
from raypacs.index.reader import IndexReader
from raypacs.master import Master
from raypacs.records import AsideRecord, Outcome, WorkResult

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "cache_statistics.ipynb"
START_S = 1_795_000_000.0
RAW_BYTES, CT_BYTES, MR_BYTES = 524_288, 120_000, 210_000


@dataclass
class Clock:
    """A clock that tests move."""

    now_s: float = START_S

    def __call__(self) -> float:
        return self.now_s


def receive(master: Master, clock: Clock, number: int, modality: str, count: int) -> None:
    """Register a study of one series."""
    study = f"1.2.826.{number}"
    master.register(
        [
            factories.instance_record(
                study=study,
                number=instance,
                modality=modality,
                received_at_s=clock(),
                source=f"{modality}1",
            )
            for instance in range(1, count + 1)
        ]
    )


def objects(number: int) -> int:
    """Number of instances of study ``number``: every fourth is an SR of one."""
    return 1 if number % 4 == 3 else 5 + number % 7


def prepare(master: Master, index_url: str) -> None:
    """Lease whatever is due and report it prepared: CT and MR as HTJ2K, SR copied."""
    reader = IndexReader(index_url)
    try:
        while leases := master.lease("n1", [PREPARE], 10):
            for lease in leases:
                stored = reader.unprepared(lease.study_uid)
                pack = factories.prepared_series(stored, lease)
                size = {"CT": CT_BYTES, "MR": MR_BYTES}.get(stored[0].record.modality, 5_000)
                copied = stored[0].record.modality == "SR"
                told = tuple(
                    replace(
                        one,
                        prepared_bytes=size,
                        form="copied" if copied else "htj2k",
                        raw_bytes=0 if copied else RAW_BYTES,
                        lossless_proven=not copied,
                    )
                    for one in pack.instances
                )
                done = replace(pack, instances=told, pack_bytes=size * len(told))
                master.report(lease, WorkResult(packs=(done,)))
    finally:
        reader.close()


def site(folder: Path, *, hours: int, step_s: float, prepared: bool = True) -> dict[str, object]:
    """Let a master live for ``hours`` (0: five minutes) of arrivals; return its last status."""
    clock = Clock()
    url = f"sqlite:///{folder / 'index.sqlite'}"
    master = Master(url, folder, clock=clock)
    master.node_seen(factories.node_info())
    number = 0
    end_s = START_S + (hours * 3600 or 300)
    while clock.now_s < end_s:
        number += 1
        modality = ("CT", "MR", "CT", "SR")[number % 4]
        receive(master, clock, number, modality, objects(number))
        clock.now_s += 10
        master.tick()
        if prepared:
            prepare(master, url)
        clock.now_s += step_s - 10
    master.aside(
        AsideRecord(Outcome.QUARANTINED, "image1", "quarantine/x.dcm", 900, "cut", "CT1", clock())
    )
    status = master.status()
    master.close()
    return status


def execute(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """Run the notebook on ``data_dir``; return all text it showed and the number of its plots."""
    monkeypatch.setenv("RAYPACS_DATA_DIR", str(data_dir))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1])]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    asyncio.run(NotebookClient(notebook, timeout=120, kernel_name="python3").async_execute())
    texts, plots = [], 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts.append(output.get("text", "") + data.get("text/plain", ""))
            plots += "image/png" in data
            assert output.get("name") != "stderr", output["text"]
    return "\n".join(texts), plots


def test_outputs_are_cleared_in_the_repository() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_a_site_of_three_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = site(tmp_path, hours=72, step_s=1800)
    text, plots = execute(tmp_path, monkeypatch)
    assert plots == 8
    assert "not archived" in text
    assert "median error" in text
    lines = {line[:24].strip(): line for line in text.splitlines()}
    # Rates are those of `raypacs status`.
    rates = [tier["fill_rate"] for tier in status["tiers"]]
    for shown, key in (
        ("studies per hour", "studies_per_hour"),
        ("objects per study", "objects_per_study"),
    ):
        assert lines[shown].split()[3:] == [f"{rate[key]:,.1f}" for rate in rates]
    assert "1 objects" in lines["kept aside (conflicts, m"]
    coded = RAW_BYTES * sum(objects(n) for n in range(1, 145) if n % 4 != 3)
    kept = sum(
        objects(n) * (MR_BYTES if n % 4 == 1 else CT_BYTES) for n in range(1, 145) if n % 4 != 3
    )
    assert lines["lossless ratio of pixels"].split()[-1] == f"{coded / kept:.2f}"


def test_a_fresh_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site(tmp_path, hours=0, step_s=30)
    text, plots = execute(tmp_path, monkeypatch)
    assert plots >= 4
    assert "the week appears after two days" in text


def test_nothing_prepared_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site(tmp_path, hours=0, step_s=100, prepared=False)
    text, _ = execute(tmp_path, monkeypatch)
    assert "Nothing is prepared yet." in text
    assert "nothing arrives" in text
