"""The DICOM port of one process; several processes may share it (SO_REUSEPORT)."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socketserver import BaseServer
from typing import Any, Literal

from pynetdicom import AE, _config, evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from raypacs.dicom import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from raypacs.dimse.buffer import ReceiveBuffer
from raypacs.dimse.provider import StoreProvider
from raypacs.dimse.scp import StorageSession, handle_store, preferred_first
from raypacs.dimse.wire import WireSocket
from raypacs.storage.intake import Intake

LOG = logging.getLogger(__name__)
_VERIFICATION = "1.2.840.10008.1.1"


@dataclass(frozen=True, slots=True)
class DicomSpec:
    """How the DICOM port answers.

    Any calling AE title is accepted (access control is a later layer), and by default any called
    one: senders are often set up with an alias, and a wrong title protects nothing.
    ``maximum_pdu_bytes`` is announced to senders (PS3.8 D.1): 256 KiB means two PDUs for a CT
    slice; larger gains nothing and troubles some senders. ``network_timeout_s`` ends an
    association on which nothing came for so long; modalities pause between series. Data sets
    larger than 16 MiB are spooled in ``spool_dir`` (default: the system's temporary folder).
    ``reactor`` is "fast", or "library" for pynetdicom's own loop, which the fast one is tested
    against.
    """

    host: str
    port: int
    ae_title: str
    require_called_ae_title: bool = False
    maximum_associations: int = 200
    maximum_pdu_bytes: int = 256 * 1024
    network_timeout_s: float = 300.0
    max_instance_bytes: int = 4 * 1024**3
    spool_dir: Path | None = None
    reactor: Literal["fast", "library"] = "fast"


class SharedPortServer(ThreadedAssociationServer):
    """An association server whose port other processes may listen on, too."""

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        *args: Any,
        spec: DicomSpec,
        intake: Intake,
        association_ended: Callable[[list[str]], None],
        **kwargs: Any,
    ) -> None:
        self.spec = spec
        self.intake = intake
        self.association_ended = association_ended
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Bind with SO_REUSEPORT (pynetdicom's own method leaves it out)."""
        assert self.socket is not None
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what ended a connection (the base class prints it)."""
        LOG.exception("an association ended with an error")

    def shutdown(self) -> None:
        """Stop listening; associations go on."""
        BaseServer.shutdown(self)
        self.server_close()


class AssociationHandler(RequestHandler):
    """Accepts one association and stays until it is over."""

    server: SharedPortServer

    def handle(self) -> None:
        """Run the association; afterwards tell which studies it brought."""
        session = StorageSession(self.server.intake, str(self.client_address[0]))
        assoc = self._create_association()
        assoc.bind(evt.EVT_C_STORE, handle_store, [session])
        if self.server.spec.reactor == "fast":
            self._use_fast_provider(assoc, session)
        evt.trigger(assoc, evt.EVT_CONN_OPEN, {"address": self.client_address})
        assoc.start()
        assoc.join()
        LOG.info(
            "association ended",
            extra={"fields": {str(outcome): n for outcome, n in session.counts.items()}},
        )
        session.end(self.server.association_ended)

    def _use_fast_provider(self, assoc: Any, session: StorageSession) -> None:
        spec = self.server.spec
        assoc.dul = StoreProvider(
            assoc,
            session,
            buffer=ReceiveBuffer(spec.spool_dir),
            most_bytes=spec.max_instance_bytes,
        )
        assoc.dul.socket = WireSocket(assoc, self.request)
        # These two pass the times on to the provider that is there when they are set.
        assoc.acse_timeout = self.ae.acse_timeout
        assoc.network_timeout = self.ae.network_timeout


def _order_transfer_syntaxes(event: Any) -> None:
    """Before negotiation: put the transfer syntax to accept first in each proposed context."""
    request = event.assoc.requestor.primitive
    # One without any transfer syntax is against PS3.8 9.3.2.2 and would end in an IndexError.
    proposed = [cx for cx in request.presentation_context_definition_list if cx.transfer_syntax]
    for context in proposed:
        context.transfer_syntax = preferred_first(context.transfer_syntax)
    request.presentation_context_definition_list = proposed


class DicomServer:
    """A listening DICOM port; see :func:`serve_dicom`."""

    def __init__(self, server: SharedPortServer) -> None:
        self._server = server
        self.port: int = server.server_address[1]
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.05,), name="dicom-listen", daemon=True
        )
        self._thread.start()

    def shutdown(self, timeout_s: float = 10.0) -> None:
        """Stop listening, wait for associations to end, then abort those that have not."""
        self._server.shutdown()
        self._thread.join()
        deadline = time.monotonic() + timeout_s
        while self._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        for assoc in self._server.active_associations:
            assoc.abort(block=False)
        deadline = time.monotonic() + 2.0
        while self._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)


def serve_dicom(
    spec: DicomSpec,
    intake: Intake,
    *,
    association_ended: Callable[[list[str]], None],
) -> DicomServer:
    """Listen for associations: C-STORE of every storage SOP class (also private and unknown
    ones) in whatever transfer syntax is proposed, and C-ECHO.

    ``association_ended`` is told the Study Instance UIDs that an association stored into, after
    they were registered; also after an abort or a lost connection.

    Raises:
        OSError: the port is taken (by something that does not share it) or not allowed.
    """
    # pynetdicom has this as switches of the process: this process is a storage SCP.
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_HANDLER_LEVEL = "none"
    ae = AE(ae_title=spec.ae_title)
    ae.maximum_associations = spec.maximum_associations
    ae.maximum_pdu_size = spec.maximum_pdu_bytes
    ae.network_timeout = spec.network_timeout_s
    ae.require_called_aet = spec.require_called_ae_title
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.add_supported_context(_VERIFICATION)
    server = ae.make_server(
        (spec.host, spec.port),
        evt_handlers=[(evt.EVT_REQUESTED, _order_transfer_syntaxes)],
        server_class=SharedPortServer,
        request_handler=AssociationHandler,
        spec=spec,
        intake=intake,
        association_ended=association_ended,
    )
    assert isinstance(server, SharedPortServer)
    return DicomServer(server)
