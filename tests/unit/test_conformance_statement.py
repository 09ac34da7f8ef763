"""The conformance statement is current, and a node negotiates as it says."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from fake_index import FakeIndex, make_intake
from pydicom.uid import CTImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelGet,  # type: ignore[attr-defined]
    StorageCommitmentPushModel,  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,  # type: ignore[attr-defined]
    Verification,  # type: ignore[attr-defined]
)

from raypacs import dicom
from raypacs.dimse.server import DicomServer, DicomSpec, serve_dicom

PRIVATE = "1.2.826.0.1.3680043.8.498.9.9"


@pytest.fixture(scope="module")
def statement() -> ModuleType:
    """The generator."""
    path = ROOT / "scripts" / "conformance_statement.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DicomServer]:
    """A DICOM port with an intake behind it."""
    intake = make_intake(tmp_path, FakeIndex())
    spec = DicomSpec(host="127.0.0.1", port=0, ae_title="RAYPACS", spool_dir=tmp_path)
    running = serve_dicom(spec, intake, association_ended=lambda uids: None)
    yield running
    running.shutdown()
    intake.close()


def test_the_conformance_statement_is_current(statement: ModuleType) -> None:
    assert statement.DOCUMENT.read_text(encoding="utf-8") == statement.document(), (
        "run python scripts/conformance_statement.py"
    )


def test_every_storage_context_is_accepted_and_no_other_service(
    statement: ModuleType, server: DicomServer
) -> None:
    """As the overview and section 4.1.3 say; a context with one syntax gets that one."""
    syntaxes = statement.stored_syntaxes()
    ae = AE()
    ae.add_requested_context(Verification)
    for uid in (StudyRootQueryRetrieveInformationModelFind, StorageCommitmentPushModel):
        ae.add_requested_context(uid)
    ae.add_requested_context(PatientRootQueryRetrieveInformationModelGet)
    ae.add_requested_context(PRIVATE, [dicom.EXPLICIT_VR_LE])
    assert len(syntaxes) < 120
    contexts = [(CTImageStorage, [uid]) for uid in syntaxes]
    assoc = ae.associate(
        "127.0.0.1",
        server.port,
        contexts=[
            *ae.requested_contexts,
            *(_context(abstract, proposed) for abstract, proposed in contexts),
        ],
    )
    assert assoc.is_established
    accepted = [(one.abstract_syntax, one.transfer_syntax[0]) for one in assoc.accepted_contexts]
    refused = {one.abstract_syntax for one in assoc.rejected_contexts}
    assoc.release()
    assert {syntax for uid, syntax in accepted if uid == CTImageStorage} == set(syntaxes)
    assert {Verification, PRIVATE} <= {uid for uid, _ in accepted}
    assert refused == {
        StudyRootQueryRetrieveInformationModelFind,
        StorageCommitmentPushModel,
        PatientRootQueryRetrieveInformationModelGet,
    }


def test_of_several_syntaxes_the_first_of_the_lowest_order_is_taken(
    statement: ModuleType, server: DicomServer
) -> None:
    syntaxes = statement.stored_syntaxes()
    by_order = {n: [uid for uid in syntaxes if statement.preference(uid) == n] for n in (1, 2, 3)}
    assert all(by_order.values())
    proposals = [
        (by_order[3][:1] + by_order[2][:1] + by_order[1][:3], by_order[1][0]),
        (by_order[3][:2] + by_order[2], by_order[2][0]),
        (by_order[3][::-1], by_order[3][-1]),
    ]
    ae = AE()
    for proposed, expected in proposals:
        contexts = [_context(CTImageStorage, proposed)]
        assoc = ae.associate("127.0.0.1", server.port, contexts=contexts)
        assert assoc.is_established
        assert assoc.accepted_contexts[0].transfer_syntax == [expected]
        assoc.release()


def _context(abstract: str, proposed: list[str]) -> object:
    ae = AE()
    ae.add_requested_context(abstract, proposed)
    return ae.requested_contexts[0]
