"""DICOM validators: what each finds wrong with an instance, in a form that can be compared.

An object is only as good as its source, and real sources are full of errors: what counts is
what was not there before.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
import threading
import warnings
from collections import Counter
from pathlib import Path

import pydicom
from dicom_validator.validator.error_handler import NullValidationResultHandler
from dicom_validator.validator.iod_validator import IODValidator
from pydicom.uid import JPEG2000Lossless
from standard_tables import dicom_info

from raypacs import dicom

_PIXEL_DATA = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
_ONE_FRAGMENT = b"\xfe\xff\0\xe0\0\0\0\0\xfe\xff\0\xe0\2\0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
_WARNINGS = threading.Lock()  # filters of warnings belong to the process, not to a thread
_GAVE_UP = "Error - Dicom dataset read failed"


def dciodvfy(data: bytes) -> Counter[str] | None:
    """Return the errors that dciodvfy (Debian's dicom3tools) tells; None where it gave up.

    It gives up on deflated data sets and on native samples of 32 bits.
    """
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        done = subprocess.run(["dciodvfy", file.name], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    errors = [line.strip() for line in lines if line.startswith("Error")]
    if done.returncode not in (0, 1) or _GAVE_UP in errors:
        return None
    return Counter(errors)


def named_jpeg_2000(data: bytes) -> bytes:
    """Return a Part 10 file of HTJ2K under the name of JPEG 2000 Lossless.

    dciodvfy (of 2022) is older than HTJ2K in DICOM and takes an unknown transfer syntax for a
    native one. What it checks, header and encapsulation, follows the same rules in both.
    """
    meta = dicom.split_part10(data)
    head = dicom.file_meta(meta.sop_class_uid, meta.sop_instance_uid, JPEG2000Lossless)
    return head + data[meta.dataset_offset :]


def header_only(data: bytes) -> bytes:
    """Return what can be validated of a file that a validator gives up on.

    Its data set as pydicom writes it, with an encapsulated frame of two bytes for pixels.
    """
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
        out = io.BytesIO()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        pydicom.dcmwrite(out, dataset, implicit_vr=False, little_endian=True)
    return named_jpeg_2000(out.getvalue() + _PIXEL_DATA + _ONE_FRAGMENT)


def dicom_validator(data: bytes) -> set[tuple[str, str, str]]:
    """Return the errors of dicom-validator (PyPI): module, attribute with its sequences, fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), defer_size=1024, force=True)
        handler = NullValidationResultHandler()
        result = IODValidator(dataset, dicom_info(), error_handler=handler).validate()
    found = {
        (module, str(tag), error.code.name)
        for module, errors in result.module_errors.items()
        for tag, error in errors.items()
    }
    return found | {("", "", result.status.name)} - {("", "", "Passed"), ("", "", "Failed")}


def written(data: bytes, path: Path) -> Path:
    """Write a file for a program that wants a path."""
    path.write_bytes(data)
    return path
