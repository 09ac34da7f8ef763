"""The 3-D overview of a series from its parts: what is read for it, and from where."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from stored_series import Store
from volume_world import enhanced, part10, series_datasets

from raypacs.codec import volume as codec_volume
from raypacs.codec.frame_geometry import GEOMETRY_TAGS, frames_of
from raypacs.work import prepare
from raypacs.work import volume as work_volume
from raypacs.work.parts import PartResult
from raypacs.work.volume import series_volume


def parts_of(store: Store, datasets: Sequence[Dataset]) -> list[PartResult]:
    """Parts of a series as they come to the task that publishes it."""
    instances = [store.add(part10(one)) for one in datasets]
    context = store.context(instances[0].record.study_uid)
    chunks = prepare.plan_chunks(instances, 100_000)
    parts = [prepare.prepare_chunk(chunk, context) for chunk in chunks]
    return [pickle.loads(pickle.dumps(part)) for part in parts]


def without_texts(parts: Sequence[PartResult]) -> list[PartResult]:
    return [
        replace(part, pieces=[replace(piece, geometry=()) for piece in part.pieces])
        for part in parts
    ]


def with_sequence(*, undefined: bool) -> list[Dataset]:
    datasets = series_datasets(24)
    for dataset in datasets:
        dataset.ReferencedImageSequence = [Dataset()]
        dataset["ReferencedImageSequence"].is_undefined_length = undefined
    return datasets


def test_the_whole_metadata_of_plain_slices_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    parts = parts_of(store, with_sequence(undefined=False))
    expected = series_volume(without_texts(parts), store.web, lambda _: True)
    assert expected is not None

    def refuse(*_: Any) -> bytes:
        raise AssertionError("read although the pieces say it")

    monkeypatch.setattr(work_volume, "_metadata", refuse)
    assert series_volume(parts, store.web, lambda _: True) == expected


@pytest.mark.parametrize("kind", ["undefined length", "many frames"])
def test_where_pieces_do_not_say_it_the_whole_does(tmp_path: Path, kind: str) -> None:
    slices = with_sequence(undefined=True)
    datasets = [enhanced(slices)] if kind == "many frames" else slices
    store = Store(tmp_path)
    parts = parts_of(store, datasets)
    assert not any(piece.geometry for part in parts for piece in part.pieces)
    assert series_volume(parts, store.web, lambda _: True) is not None


@pytest.mark.parametrize("signed", [False, True])
def test_planes_made_beside_the_codestreams_are_those_of_their_beginnings(
    tmp_path: Path, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_volume, "MOST_SIDE", 16)
    slices = series_datasets(24)
    for dataset in slices:
        dataset.PixelRepresentation = int(signed)
    store = Store(tmp_path)
    parts = parts_of(store, slices)
    assert all(piece.plane_halvings for part in parts for piece in part.pieces)
    without = [
        replace(part, pieces=[replace(piece, plane_halvings=0) for piece in part.pieces])
        for part in parts
    ]
    expected = series_volume(without, store.web, lambda _: True)
    assert expected is not None

    def refuse(*_: Any) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(work_volume._Lows, "_read", refuse)
    assert series_volume(parts, store.web, lambda _: True) == expected


class _Asked(dict[str, Any]):
    """DICOM JSON that notes what it is asked for."""

    def __init__(self, instance: dict[str, Any]) -> None:
        super().__init__(instance)
        self.tags: set[str] = set()

    def get(self, tag: str, default: Any = None) -> Any:
        self.tags.add(tag)
        return super().get(tag, default)

    def __contains__(self, tag: object) -> bool:
        self.tags.add(str(tag))
        return super().__contains__(tag)


def test_pieces_carry_all_that_geometry_looks_at() -> None:
    slices = series_datasets(24)
    nm = pydicom.Dataset()
    nm.update(slices[0])
    nm.NumberOfFrames, nm.SpacingBetweenSlices, nm.PixelPaddingValue = 3, 2.0, 0
    nm.DetectorInformationSequence = [Dataset()]
    asked: set[str] = set()
    for dataset in (slices[0], enhanced(slices), nm):
        instance = _Asked(dataset.to_json_dict(suppress_invalid_tags=True))
        assert frames_of(instance)
        asked |= instance.tags
    assert asked == set(GEOMETRY_TAGS)
