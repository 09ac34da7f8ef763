"""Storage SCUs that cost as little as possible: raw sockets, PDUs encoded beforehand.

One process per association, TCP_NODELAY, the whole message of an instance in one write, the next
one after the answer. `python -m benchmarks.senders PORT CALLED RUN FIRST COUNT` is one of them: it
prepares, prints `ready`, waits for a line, sends, prints what it saw as JSON. Each RUN has SOP
Instance UIDs of its own, so that nothing is known already.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"
_ROOT = "1.2.826.0.1.3680043.9.7433.2"
_SIDE = 512
_MAX_LENGTH = b"\x51\0\0\x04"


@dataclass(frozen=True)
class Sending:
    """What sending over all associations took; latencies are per instance."""

    seconds: float
    instances: int
    size_bytes: int
    p50_s: float
    p99_s: float

    @property
    def per_s(self) -> float:
        """Instances per second."""
        return self.instances / self.seconds


def send(port: int, *, run: str, count: int, associations: int, called: str = "ANY") -> Sending:
    """Send ``count`` CT instances of 0.5 MB over parallel associations and time it.

    Raises:
        RuntimeError: an association failed or an instance was not answered with 0000H.
    """
    shares = [count // associations + (n < count % associations) for n in range(associations)]
    firsts = [sum(shares[:n]) for n in range(associations)]
    command = [sys.executable, "-m", "benchmarks.senders", str(port), called, run]
    processes = [
        subprocess.Popen(
            [*command, str(first), str(share)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first, share in zip(firsts, shares, strict=True)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError("a sender did not come up")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.communicate(timeout=600)[0] or "{}") for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(not one or one["failed"] for one in told):
        raise RuntimeError(f"not everything was stored: {[one.get('failed') for one in told]}")
    latencies = sorted(latency for one in told for latency in one["latencies_s"])
    return Sending(
        seconds=max(one["end_s"] for one in told) - min(one["start_s"] for one in told),
        instances=len(latencies),
        size_bytes=sum(one["size_bytes"] for one in told),
        p50_s=latencies[len(latencies) // 2],
        p99_s=latencies[int(len(latencies) * 0.99)],
    )


def data_set(study: str, uid: str, number: int, pixels: bytes) -> bytes:
    """A CT data set, Explicit VR Little Endian (PS3.5 section 7.1)."""
    us = struct.Struct("<H").pack

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
        if vr == b"OW":
            return head + struct.pack("<HI", 0, len(value)) + value
        return head + us(len(value)) + value

    return b"".join(
        (
            element(0x00080016, b"UI", CT.encode()),
            element(0x00080018, b"UI", uid.encode()),
            element(0x00080020, b"DA", b"20260101"),
            element(0x00080060, b"CS", b"CT"),
            element(0x00100010, b"PN", b"Load^Generated"),
            element(0x00100020, b"LO", study[-16:].encode()),
            element(0x0020000D, b"UI", study.encode()),
            element(0x0020000E, b"UI", f"{study}.1".encode()),
            element(0x00200013, b"IS", str(number).encode()),
            element(0x00280002, b"US", us(1)),
            element(0x00280004, b"CS", b"MONOCHROME2"),
            element(0x00280010, b"US", us(_SIDE)),
            element(0x00280011, b"US", us(_SIDE)),
            element(0x00280100, b"US", us(16)),
            element(0x00280101, b"US", us(16)),
            element(0x00280102, b"US", us(15)),
            element(0x00280103, b"US", us(0)),
            element(0x7FE00010, b"OW", pixels),
        )
    )


class _Sender:
    """One association (PS3.8 section 9.3)."""

    def __init__(self, port: int, called: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._called = called
        self._most = 0

    def open(self) -> None:
        """Negotiate one presentation context: CT, Explicit VR Little Endian."""

        def item(kind: int, value: bytes) -> bytes:
            return struct.pack(">BBH", kind, 0, len(value)) + value

        context = item(0x30, CT.encode()) + item(0x40, EXPLICIT_VR_LE.encode())
        user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4") + item(0x55, b"LOAD")
        body = struct.pack(">HH", 1, 0) + self._called.ljust(16).encode() + b"LOAD".ljust(16)
        body += bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1")
        body += item(0x20, struct.pack(">BBBB", 1, 0, 0, 0) + context) + item(0x50, user)
        self._socket.sendall(struct.pack(">BBI", 1, 0, len(body)) + body)
        kind, answer = self._pdu()
        if kind != 2:
            raise ConnectionError(f"association not accepted: PDU type {kind}")
        at = answer.find(_MAX_LENGTH)
        self._most = struct.unpack(">I", answer[at + 4 : at + 8])[0] if at >= 0 else 16384

    def store(self, uid: str, message_id: int, dataset: bytes) -> int:
        """Send one instance; return the status of the answer."""
        command = self._pdus(self._command(uid, message_id), 1)
        self._socket.sendall(command + self._pdus(dataset, 0))
        kind, answer = self._pdu()
        if kind != 4:
            raise ConnectionError(f"PDU type {kind} instead of an answer")
        at = answer.find(struct.pack("<HHI", 0, 0x900, 2))
        return int(struct.unpack("<H", answer[at + 8 : at + 10])[0])

    def release(self) -> None:
        """End the association."""
        self._socket.sendall(struct.pack(">BBI", 5, 0, 4) + bytes(4))
        try:
            self._pdu()
        except EOFError:
            pass
        self._socket.close()

    @staticmethod
    def _command(uid: str, message_id: int) -> bytes:
        def element(number: int, value: bytes) -> bytes:
            value += b"\0" * (len(value) % 2)
            return struct.pack("<HHI", 0, number, len(value)) + value

        us = struct.Struct("<H").pack
        body = element(2, CT.encode()) + element(0x100, us(1)) + element(0x110, us(message_id))
        body += element(0x700, us(0)) + element(0x800, us(1)) + element(0x1000, uid.encode())
        return element(0, struct.pack("<I", len(body))) + body

    def _pdus(self, data: bytes, command: int) -> bytes:
        step = self._most - 6 if self._most else len(data)
        out = []
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            last = 2 if start + step >= len(data) else 0
            out.append(struct.pack(">BBI", 4, 0, len(piece) + 6))
            out.append(struct.pack(">IBB", len(piece) + 2, 1, command | last) + piece)
        return b"".join(out)

    def _pdu(self) -> tuple[int, bytes]:
        head = self._exactly(6)
        return head[0], self._exactly(struct.unpack(">I", head[2:])[0])

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


def main(port: int, called: str, run: str, first: int, count: int) -> None:
    """Be one sender; see the module."""
    study = f"{_ROOT}.{run}"
    noise = random.Random(first)
    instances = []
    for number in range(first, first + count):
        uid = f"{study}.1.{number}"
        pixels = noise.randbytes(_SIDE * _SIDE * 2)
        instances.append((uid, data_set(study, uid, number, pixels)))
    sender = _Sender(port, called)
    print("ready", flush=True)
    sys.stdin.readline()
    start_s = time.monotonic()
    sender.open()
    latencies, failed = [], []
    for number, (uid, dataset) in enumerate(instances):
        before = time.perf_counter()
        status = sender.store(uid, number % 65535 + 1, dataset)
        latencies.append(time.perf_counter() - before)
        if status:
            failed.append(f"{status:04X}")
    sender.release()
    told = {
        "start_s": start_s,
        "end_s": time.monotonic(),
        "latencies_s": latencies,
        "failed": sorted(set(failed)),
        "size_bytes": sum(len(dataset) for _, dataset in instances),
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
