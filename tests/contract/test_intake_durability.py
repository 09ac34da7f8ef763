"""Everything answered 'stored' is there after a power cut or kill -9, and gets registered."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dicom_bytes import SYNTAX, data_set
from fake_index import FakeIndex, image_tier, make_intake
from lossy_tier import LossyDisk

from raypacs.config import TierSettings
from raypacs.dicom import split_part10
from raypacs.records import Outcome
from raypacs.storage.local import LocalTier


def surviving(folder: Path) -> dict[str, bytes]:
    """Data set by SOP Instance UID of what lies under studies/."""
    tier, found = image_tier(folder), {}
    for info in tier.walk("studies/"):
        content = tier.read(info.path)
        part10 = split_part10(content)
        found[part10.sop_instance_uid] = content[part10.dataset_offset :]
    return found


def lossy_tier(disk: LossyDisk) -> LocalTier:
    settings = TierSettings(name="image1", role="image", url=disk.root.as_uri())
    return LocalTier(settings, sync=disk.sync)


def test_after_a_power_cut_all_that_was_answered_is_there_and_registered(tmp_path: Path) -> None:
    """The cut comes while four threads store; the index has seen nothing of it."""
    disk, index = LossyDisk(tmp_path / "disk"), FakeIndex()
    index.down = True
    intake = make_intake(tmp_path, index, tiers=[lossy_tier(disk)])
    answered: dict[str, bytes] = {}
    cut = threading.Event()

    def receive(number: int) -> None:
        for n in range(30):
            uid = f"1.2.{number}.{n}"
            dataset = data_set(uid, study=f"1.2.{n % 3}", pixels=os.urandom(256))
            outcome = intake.store(dataset, transfer_syntax_uid=SYNTAX, source="S").outcome
            if not cut.is_set():
                assert outcome is Outcome.STORED
                answered[uid] = dataset
            if len(answered) >= 60:
                cut.set()

    threads = [threading.Thread(target=receive, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    cut.wait()
    before = dict(answered)  # answered for certain before the cut
    left = disk.power_cut(tmp_path / "after")
    for thread in threads:
        thread.join()
    disk.close()
    intake.close(0.01)
    found = surviving(left)
    assert before.items() <= found.items()
    fresh = FakeIndex()
    restarted = make_intake(tmp_path, fresh, tiers=[image_tier(left)], boot="boot2")
    assert restarted.recover({"boot2"}) == len(found)
    assert set(fresh.instances) == set(found)
    restarted.close()
    assert list(image_tier(left).walk("intake/")) == []


def test_recovery_leaves_live_processes_alone_and_is_idempotent(tmp_path: Path) -> None:
    index = FakeIndex()
    index.down = True
    alive = make_intake(tmp_path, index)
    alive.store(data_set(), transfer_syntax_uid=SYNTAX, source="S")
    index.down = False
    recovering = make_intake(
        tmp_path / "r", index, tiers=[image_tier(tmp_path / "image")], boot="b"
    )
    index.down = True
    assert recovering.recover({"boot1"}) == 0
    assert recovering.recover_lost({"another"}) == 0
    index.down = False
    assert recovering.recover_lost({"boot1"}) in (0, 1)  # 0 if boot1 was faster
    assert recovering.recover(set()) == 0
    alive.close(20)
    recovering.close()
    assert len(index.instances) == 1
    assert len(surviving(tmp_path / "image")) == 1


def test_recovery_quarantines_what_is_no_instance(tmp_path: Path) -> None:
    tier, index = image_tier(tmp_path / "image"), FakeIndex()
    tier.put_durable("intake/dead.1.2.3", b"")
    tier.put_durable("studies/1.2.3/1.2.4/1.2.5.aa.dcm", b"rubbish")
    intake = make_intake(tmp_path, index)
    assert intake.recover(set()) == 0
    intake.close()
    assert [i.path.split("/")[0] for i in tier.walk()] == ["quarantine", "quarantine"]
    assert index.asides[0].outcome is Outcome.QUARANTINED


RECEIVER = """
import sys
from pathlib import Path
from dicom_bytes import SYNTAX, data_set
from fake_index import FakeIndex, make_intake
index = FakeIndex()
index.down = True
folder, run, seed = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
intake = make_intake(folder, index, boot="run" + run)
for n in range(100000):
    pixels = bytes([n % 251]) * 4096
    dataset = data_set(f"1.2.{seed}.1{run}.{n}", study=f"1.2.{n % 5}", pixels=pixels)
    answer = intake.store(dataset, transfer_syntax_uid=SYNTAX, source="S")
    print(run, n, answer.outcome.value, flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_seeded_moments(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    here = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    answered: list[str] = []
    for round_number in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", RECEIVER, str(tmp_path), str(round_number), f"{seed}"],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        assert process.stdout is not None
        for _ in range(chosen.randrange(1, 120)):
            answered.append(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        answered += process.stdout.read().splitlines()
        process.stdout.close()
        process.wait()
    lines = [line.split() for line in answered if line.strip()]
    assert {outcome for _, _, outcome in lines} == {"stored"}
    index = FakeIndex()
    intake = make_intake(tmp_path, index, boot="after")
    intake.recover({"after"})
    found = surviving(tmp_path / "image")
    for run, number, _ in lines:
        uid, n = f"1.2.{seed}.1{run}.{number}", int(number)
        sent = data_set(uid, study=f"1.2.{n % 5}", pixels=bytes([n % 251]) * 4096)
        assert found[uid] == sent
        assert uid in index.instances
    # What was half begun holds no claim any more: the sender may send it again.
    uid = f"1.2.{seed}.11.{len(lines)}"
    answer = intake.store(data_set(uid), transfer_syntax_uid=SYNTAX, source="S")
    assert answer.outcome in (Outcome.STORED, Outcome.CONFLICT)
    intake.close()
