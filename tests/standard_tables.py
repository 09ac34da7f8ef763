"""Tables of the DICOM standard for dicom-validator (PyPI), which brings none.

It builds them from the DocBook files of dicom.nema.org, which a test may not ask for. Where the
environment variable RAYPACS_DICOM_STANDARD names a folder that dicom-validator has filled
(`validate_iods --standard-path FOLDER FILE` does), those of the newest edition there are used.
Otherwise the IODs, modules and attributes with their types come from highdicom (PyPI), which
carries them as JSON, and the conditions and enumerated values of the modules that preparing an
image touches are written here, from PS3.3 sections C.7.6.3 and C.7.6.1.
"""

from __future__ import annotations

import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from dicom_validator.spec_reader.edition_reader import EditionReader
from dicom_validator.validator.dicom_info import DicomInfo
from pydicom.datadict import RepeatersDictionary, keyword_dict

_COLOUR = {"tag": "(0028,0002)", "index": 0, "op": ">", "values": ["1"]}
_PALETTE = {"tag": "(0028,0004)", "index": 0, "op": "=", "values": ["PALETTE COLOR"]}
_LOSSY = {"tag": "(0028,2110)", "index": 0, "op": "=", "values": ["01"]}
_PALETTE_LOOKUP = [
    f"{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for part in ("Descriptor", "Data")
]
_CONDITIONS: dict[str, dict[str, Any]] = {
    "PlanarConfiguration": {"type": "MN", **_COLOUR},
    "LossyImageCompressionRatio": {"type": "MU", **_LOSSY},
    "LossyImageCompressionMethod": {"type": "MU", **_LOSSY},
    **{keyword: {"type": "MU", **_PALETTE} for keyword in _PALETTE_LOOKUP},
}
_VALUES: dict[str, list[Any]] = {
    "PixelRepresentation": [0, 1],
    "PlanarConfiguration": [0, 1],
    "LossyImageCompression": ["00", "01"],
}


@cache
def dicom_info() -> DicomInfo:
    """Return the tables that the validator works with."""
    folder = os.environ.get("RAYPACS_DICOM_STANDARD")
    if folder:
        return EditionReader(folder).dicom_info_for_edition("local")
    attributes = _read("module_attribute_map.json")
    modules = {name: _module(entries) for name, entries in attributes.items()}
    iods = _read("iod_module_map.json")
    return DicomInfo(
        dictionary={},
        iods={uid: _iod(name, iods[name]) for uid, name in _read("sop_class_iod_map.json").items()},
        modules=modules,
    )


def _read(name: str) -> dict[str, Any]:
    found = importlib.util.find_spec("highdicom")  # its code is not run
    assert found is not None
    assert found.origin is not None
    text = (Path(found.origin).parent / "_standard" / name).read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def _iod(name: str, modules: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "title": name,
        "modules": {one["key"]: {"ref": one["key"], "use": one["usage"]} for one in modules},
        "group_macros": {},
    }


def _module(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Nest the attributes of a module: highdicom lists each with the sequences it is in."""
    module: dict[str, Any] = {}
    for entry in entries:
        level = module
        for keyword in entry["path"]:
            level = level[_tag(keyword)].setdefault("items", {})
        keyword = entry["keyword"]
        attribute: dict[str, Any] = {"name": keyword, "type": entry["type"]}
        if not entry["path"]:
            if keyword in _CONDITIONS and entry["type"].endswith("C"):
                attribute["cond"] = _CONDITIONS[keyword]
            if keyword in _VALUES:
                attribute["enums"] = [{"val": _VALUES[keyword]}]
        level[_tag(keyword)] = attribute
    return module


@cache
def _tag(keyword: str) -> str:
    if keyword in keyword_dict:
        digits = f"{keyword_dict[keyword]:08X}"
    else:  # of a repeating group, such as overlays: 60xx
        digits = next(mask for mask, entry in RepeatersDictionary.items() if entry[4] == keyword)
    return f"({digits[:4]},{digits[4:]})"
