"""A storage SCU on a plain socket, for what well-behaved libraries never send."""

from __future__ import annotations

import socket
import struct

from dicom_bytes import CT, SYNTAX


class RawSender:
    """Speaks PDUs byte by byte (PS3.8 section 9.3)."""

    def __init__(self, port: int, *contexts: tuple[str, str], address: str = "") -> None:
        """Connect, from a loopback ``address`` ('': any)."""
        own = (address, 0) if address else None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=own)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        user = self._item(0x51, struct.pack(">I", 16384)) + self._item(0x52, b"1.2.3")
        body = struct.pack(">HH", 1, 0) + b"ANY".ljust(16) + b"RAW".ljust(16) + bytes(32)
        body += self._item(0x10, b"1.2.840.10008.3.1.1.1")
        for n, (abstract, syntax) in enumerate(contexts or ((CT, SYNTAX),)):
            context = self._item(0x30, abstract.encode())
            if syntax:
                context += self._item(0x40, syntax.encode())
            body += self._item(0x20, struct.pack(">BBBB", 2 * n + 1, 0, 0, 0) + context)
        body += self._item(0x50, user)
        self.socket.sendall(struct.pack(">BBI", 1, 0, len(body)) + body)
        assert self.pdu()[0] == 2

    @staticmethod
    def _item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    def pdu(self) -> tuple[int, bytes]:
        head = self._exactly(6)
        return head[0], self._exactly(struct.unpack(">I", head[2:])[0])

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    @staticmethod
    def pdv(flags: int, data: bytes, context: int = 1) -> bytes:
        return struct.pack(">IBB", len(data) + 2, context, flags) + data

    def p_data(self, *pdvs: bytes) -> bytes:
        body = b"".join(pdvs)
        return struct.pack(">BBI", 4, 0, len(body)) + body

    @staticmethod
    def command(
        uid: str = "1.2.3.1", *, sop_class: str = CT, field: int = 1, data_set_type: int = 1
    ) -> bytes:
        def element(number: int, value: bytes) -> bytes:
            value += b"\0" * (len(value) % 2)
            return struct.pack("<HHI", 0, number, len(value)) + value

        us = struct.Struct("<H").pack
        body = element(2, sop_class.encode()) + element(0x100, us(field)) + element(0x110, us(7))
        body += element(0x700, us(0)) + element(0x800, us(data_set_type))
        body += element(0x1000, uid.encode())
        return element(0, struct.pack("<I", len(body))) + body

    def store(self, context: int, sop_class: str, uid: str, dataset: bytes) -> int:
        """Send one data set in PDUs of 64 KiB; return the status of the answer."""
        command = self.command(uid, sop_class=sop_class)
        self.socket.sendall(self.p_data(self.pdv(3, command, context)))
        for start in range(0, max(len(dataset), 1), 65536):
            piece = dataset[start : start + 65536]
            last = 2 if start + 65536 >= len(dataset) else 0
            self.socket.sendall(self.p_data(self.pdv(last, piece, context)))
        return self.status(context)

    def status(self, expected_context: int = 1) -> int:
        """Return the status of the next C-STORE-RSP."""
        kind, body = self.pdu()
        assert kind == 4
        _, context, flags = struct.unpack(">IBB", body[:6])
        assert (context, flags) == (expected_context, 3)
        answer = body[6:]
        at = answer.index(struct.pack("<HHI", 0, 0x900, 2))
        return int(struct.unpack("<H", answer[at + 8 : at + 10])[0])
