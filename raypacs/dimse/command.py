"""Command sets of C-STORE (PS3.7 section 9.3.1), always Implicit VR Little Endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass

C_STORE_RQ = 0x0001
C_STORE_RSP = 0x8001
NO_DATA_SET = 0x0101

_AFFECTED_CLASS = 0x0002
_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_RESPONDED_TO = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_COMMENT = 0x0902
_AFFECTED_INSTANCE = 0x1000
_MOST_COMMENT = 64  # LO
_HEAD = struct.Struct("<HHI")
_US = struct.Struct("<H")


class BadCommand(ValueError):
    """A command set that cannot be parsed."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is needed of a request. UIDs without padding."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str


def parse_command(data: bytes) -> Command:
    """Parse a command set.

    Raises:
        BadCommand: truncated, an element outside group 0000, or a value of the wrong length.
    """
    values: dict[int, bytes] = {}
    pos = 0
    while pos < len(data):
        if pos + 8 > len(data):
            raise BadCommand("the command set ends within an element")
        group, number, length = _HEAD.unpack_from(data, pos)
        pos += 8
        if group != 0 or pos + length > len(data):
            raise BadCommand("the command set is damaged")
        values[number] = data[pos : pos + length]
        pos += length
    return Command(
        field=_us(values, _FIELD),
        message_id=_us(values, _MESSAGE_ID, 0),
        has_data_set=_us(values, _DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET,
        sop_class_uid=_uid(values.get(_AFFECTED_CLASS, b"")),
        sop_instance_uid=_uid(values.get(_AFFECTED_INSTANCE, b"")),
    )


def _us(values: dict[int, bytes], number: int, default: int | None = None) -> int:
    value = values.get(number)
    if value is None and default is not None:
        return default
    if value is None or len(value) != 2:
        raise BadCommand(f"(0000,{number:04X}) is missing or not one US")
    return int(_US.unpack(value)[0])


def _uid(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0")


def store_response(request: Command, status: int, comment: str = "") -> bytes:
    """Return the command set of a C-STORE-RSP; ``comment`` is cut to Error Comment's 64."""
    body = b"".join(
        (
            _element(_AFFECTED_CLASS, request.sop_class_uid.encode("ascii", "replace")),
            _element(_FIELD, _US.pack(C_STORE_RSP)),
            _element(_RESPONDED_TO, _US.pack(request.message_id)),
            _element(_DATA_SET_TYPE, _US.pack(NO_DATA_SET)),
            _element(_STATUS, _US.pack(status)),
            _element(_COMMENT, error_comment(comment).encode(), b" ") if comment else b"",
            _element(_AFFECTED_INSTANCE, request.sop_instance_uid.encode("ascii", "replace")),
        )
    )
    return _element(0, struct.pack("<I", len(body))) + body


def error_comment(reason: str) -> str:
    """``reason`` as a value of Error Comment (0000,0902): ASCII, one line, at most 64."""
    plain = reason.encode("ascii", "replace").decode().replace("\\", "/")
    plain = " ".join(plain.split())
    return plain if len(plain) <= _MOST_COMMENT else plain[: _MOST_COMMENT - 3] + "..."


def _element(number: int, value: bytes, padding: bytes = b"\0") -> bytes:
    if len(value) % 2:
        value += padding
    return _HEAD.pack(0, number, len(value)) + value
