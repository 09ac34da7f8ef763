"""The upper layer of an association, with C-STORE handled where its bytes arrive.

pynetdicom negotiates, releases, aborts, keeps the timers and serves every other message. While an
association is established (Sta6 of PS3.8 section 9.2) this provider reads P-DATA-TF PDUs itself:
a C-STORE data set goes from the network straight into one buffer, from there to the intake, and
the response leaves as one segment; no thread is changed and nothing is decoded twice. Any other
PDU or message is handed to the library unread.
"""

from __future__ import annotations

import logging
import struct
from typing import Any

from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import P_DATA

from raypacs.dimse.buffer import ReceiveBuffer
from raypacs.dimse.command import C_STORE_RQ, BadCommand, Command, parse_command, store_response
from raypacs.dimse.scp import StorageSession
from raypacs.dimse.wire import Waiter, WireSocket
from raypacs.storage.answers import OUT_OF_RESOURCES

LOG = logging.getLogger(__name__)
_ESTABLISHED = "Sta6"
_P_DATA_TF = 4
_COMMAND, _LAST = 1, 2  # message control header, PS3.8 annex E.2
_PDU = struct.Struct(">BBI")
_PDV = struct.Struct(">IBB")
_RESPONSE = struct.Struct(">BBIIBB")
_MOST_COMMAND_BYTES = 64 * 1024
_WAIT_S = 1.0


class BadPdu(ValueError):
    """A P-DATA-TF PDU against PS3.8 section 9.3.5."""


class StoreProvider(DULServiceProvider):
    """A DUL service provider with a short way for C-STORE."""

    def __init__(
        self, assoc: Any, session: StorageSession, *, buffer: ReceiveBuffer, most_bytes: int
    ) -> None:
        self._waiter = Waiter()
        super().__init__(assoc)
        self.daemon = True
        self._session = session
        self._buffer = buffer
        self._most_bytes = most_bytes
        self._command = b""
        self._request: Command | None = None  # a C-STORE whose data set is arriving
        self._context_id = 0
        self._refusal = ""  # why the data set that arrives is not kept
        self._contexts: dict[int, str] = {}

    @property
    def _run_loop_delay(self) -> float:
        # The library sleeps this long after each turn without an event. Once established there is
        # no need: the turn itself waits for the network.
        return 0.0 if self._established() else 0.001

    @_run_loop_delay.setter
    def _run_loop_delay(self, value: float) -> None:
        """Set by the library's constructor; the property decides."""

    def _established(self) -> bool:
        machine = getattr(self, "state_machine", None)
        return machine is not None and machine.current_state == _ESTABLISHED

    def run_reactor(self) -> None:
        """Run until the association is over."""
        try:
            super().run_reactor()
        finally:
            self.assoc._reactor_checkpoint.set()
            self._waiter.close()

    def send_pdu(self, primitive: Any) -> None:
        """Queue a primitive for sending, and end the wait for the network."""
        super().send_pdu(primitive)
        self._waiter.wake()

    def kill_dul(self) -> None:
        """End the thread, also while it waits for the network."""
        super().kill_dul()
        self._waiter.wake()

    def stop_dul(self) -> bool:
        """End the thread if the association is idle (Sta1)."""
        self._waiter.wake()
        return bool(super().stop_dul())

    def _is_transport_event(self) -> bool:
        """Wait for the network and serve it; True if something came."""
        wire = self.socket
        if not self._established() or not isinstance(wire, WireSocket) or wire.socket is None:
            self._let_library_run()
            return bool(super()._is_transport_event())
        self._hold_library()
        if not wire.ready and not self._waiter.wait(wire.socket, _WAIT_S):
            return False
        try:
            self._serve(wire)
        except OSError:
            self._let_library_run()
            self.event_queue.put("Evt17")  # transport connection closed
        except (BadPdu, BadCommand) as exc:
            LOG.warning("association aborted: %s", exc)
            self._let_library_run()
            self.event_queue.put("Evt19")  # invalid PDU: the state machine aborts
        return True

    def _hold_library(self) -> None:
        """Let the association's own thread sleep while there is nothing for it to do.

        It polls a thousand times a second otherwise, and each turn takes the interpreter lock.
        """
        assoc = self.assoc
        idle = assoc.dimse.msg_queue.empty() and self.to_user_queue.empty()
        if idle and assoc.is_established and not assoc._kill and not self.idle_timer_expired():
            assoc._reactor_checkpoint.clear()
        else:
            self._let_library_run()

    def _let_library_run(self) -> None:
        self.assoc._reactor_checkpoint.set()

    def _serve(self, wire: WireSocket) -> None:
        """Read one PDU: P-DATA-TF here, any other through the library."""
        head = wire.read(6)
        kind, _, left = _PDU.unpack(head)
        if kind != _P_DATA_TF:
            wire.unread(head)
            self._let_library_run()
            self._read_pdu_data()
            return
        while left > 0:
            if left < 6:
                raise BadPdu("P-DATA-TF ends within a PDV")
            length, context_id, control = _PDV.unpack(wire.read(6))
            size = length - 2
            left -= 6 + size
            if size < 0 or left < 0:
                raise BadPdu("PDV longer than its P-DATA-TF")
            if control & _COMMAND:
                self._command_fragment(wire, context_id, control, size)
            else:
                self._data_fragment(wire, context_id, control, size)

    def _command_fragment(self, wire: WireSocket, context_id: int, control: int, size: int) -> None:
        if self._request is not None or len(self._command) + size > _MOST_COMMAND_BYTES:
            raise BadPdu("a command set where none is expected, or too long")
        self._command += wire.read(size)
        if not control & _LAST:
            return
        encoded, self._command = self._command, b""
        command = parse_command(encoded)
        if command.field != C_STORE_RQ:
            self._through(context_id, control, encoded)
            return
        if context_id not in self.assoc._accepted_cx:
            raise BadPdu("C-STORE in a presentation context that was not accepted")
        self._request, self._context_id, self._refusal = command, context_id, ""
        self._buffer.reset()
        if not command.has_data_set:
            self._finish(wire)

    def _data_fragment(self, wire: WireSocket, context_id: int, control: int, size: int) -> None:
        if self._request is None:
            self._through(context_id, control, wire.read(size))
            return
        if context_id != self._context_id:
            raise BadPdu("a data set in another presentation context than its command")
        if not self._refusal and self._buffer.size_bytes + size > self._most_bytes:
            self._refusal = "the object is larger than max_instance_bytes"
        if not self._refusal:
            try:
                view = self._buffer.space(size)
            except OSError:
                self._refusal = "no room to receive an object of this size"
        if self._refusal:
            wire.skip(size)
        else:
            with view:
                wire.read_into(view)
        if control & _LAST:
            self._finish(wire)

    def _finish(self, wire: WireSocket) -> None:
        """The data set is complete: store it and answer."""
        request = self._request
        assert request is not None
        self._request = None
        status, reason = OUT_OF_RESOURCES, self._refusal
        if not reason:
            with self._buffer.view() as view:
                stored = self._session.store(
                    view,
                    transfer_syntax_uid=self._transfer_syntax(self._context_id),
                    sop_class_uid=request.sop_class_uid,
                    sop_instance_uid=request.sop_instance_uid,
                    source=self.assoc.requestor.ae_title.strip(),
                )
            status, reason = stored.status, stored.reason
        encoded = store_response(request, status, reason if status else "")
        size = len(encoded) + 2
        head = _RESPONSE.pack(_P_DATA_TF, 0, size + 4, size, self._context_id, _COMMAND | _LAST)
        wire.send_at_once(head + encoded)
        self._idle_timer.restart()

    def _through(self, context_id: int, control: int, fragment: bytes) -> None:
        """Hand a fragment of another message to the library."""
        primitive: Any = P_DATA()  # whose annotation says tuples where its check wants lists
        primitive.presentation_data_value_list = [[context_id, bytes([control]) + fragment]]
        self.assoc.dimse.receive_primitive(primitive)
        self._let_library_run()

    def _transfer_syntax(self, context_id: int) -> str:
        known = self._contexts.get(context_id)
        if known is None:
            known = str(self.assoc._accepted_cx[context_id].transfer_syntax[0])
            self._contexts[context_id] = known
        return known
