"""Windows, rescale, inversion and colour of rendered frames."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from raypacs.web.pixels import Picture
from raypacs.web.problem import Problem
from raypacs.web.rendering import (
    Viewport,
    Wanted,
    Window,
    parse_quality,
    parse_viewport,
    parse_window,
    render,
)


def grey(array: np.ndarray, photometric: str = "MONOCHROME2") -> Picture:
    return Picture(array, photometric, 8 * array.dtype.itemsize, 12, array.dtype.kind == "i")


def shown(picture: Picture, header: Dataset, window: Window | None = None) -> np.ndarray:
    return imagecodecs.png_decode(render(picture, header, 1, Wanted("image/png", window=window)))


def header(**values: object) -> Dataset:
    dataset = Dataset()
    for key, value in values.items():
        setattr(dataset, key, value)
    return dataset


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32])
def test_windows_agree_with_pydicom(function: str, dtype: type) -> None:
    array = np.arange(0, 4096, 8, dtype=dtype).reshape(4, -1)
    dataset = header(
        RescaleSlope="1.5", RescaleIntercept="-1024", WindowCenter="40", WindowWidth="400"
    )
    dataset.VOILUTFunction = function
    dataset.BitsStored, dataset.PixelRepresentation = 16, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    expected = apply_voi_lut(apply_modality_lut(array, dataset), dataset)
    # pydicom's output range is that of the data; scale it to the 8 bits shown here.
    low, high = expected.min(), expected.max()
    expected = (expected - low) / (high - low) * 255
    assert np.abs(shown(grey(array), dataset) - expected).max() <= 1.0


def test_request_window_wins_and_monochrome1_is_inverted() -> None:
    array = np.array([[0, 100, 200]], np.uint8)
    dataset = header(WindowCenter=10, WindowWidth=5)
    window = Window(100, 200, "linear-exact")
    assert shown(grey(array), dataset, window).tolist() == [[0, 128, 255]]
    assert shown(grey(array, "MONOCHROME1"), dataset, window).tolist() == [[255, 128, 0]]


def test_without_a_window_the_range_of_the_frame_is_shown() -> None:
    array = np.array([[1000, 1500, 2000]], np.uint16)
    assert shown(grey(array), header()).tolist() == [[0, 128, 255]]
    assert shown(grey(np.full((2, 2), 7, np.uint8)), header()).shape == (2, 2)


def test_per_frame_window_of_enhanced_objects() -> None:
    voi = header(FrameVOILUTSequence=[header(WindowCenter=100, WindowWidth=200)])
    voi.FrameVOILUTSequence[0].VOILUTFunction = "LINEAR_EXACT"
    dataset = header(PerFrameFunctionalGroupsSequence=[voi])
    assert shown(grey(np.array([[0, 100, 200]], np.uint8)), dataset).tolist() == [[0, 128, 255]]


def test_ybr_becomes_rgb() -> None:
    ybr = np.array([[[76, 85, 255], [255, 128, 128]]], np.uint8)
    picture = Picture(ybr, "YBR_FULL", 8, 8, False)
    rgb = shown(picture, header()).astype(int)
    assert np.abs(rgb - [[[254, 0, 0], [255, 255, 255]]]).max() <= 2


@pytest.mark.parametrize("bits", [4, 7, 8, 12, 16])
def test_colour_of_any_depth_fills_eight_bits(bits: int) -> None:
    most = (1 << bits) - 1
    values = np.array([[[0, most, most // 2]]], np.uint8 if bits <= 8 else np.uint16)
    rgb = shown(Picture(values, "RGB", 8 * values.itemsize, bits, False), header())
    assert np.abs(rgb.astype(int) - [0, 255, 127]).max() <= 9


def test_signed_colour_is_clipped() -> None:
    values = np.array([[[-5, 100, 127]]], np.int8)
    assert shown(Picture(values, "RGB", 8, 8, True), header()).tolist() == [[[0, 100, 127]]]


def test_viewport_keeps_the_aspect() -> None:
    array = np.tile(np.arange(256, dtype=np.uint8), (128, 1))
    wanted = Wanted("image/png", viewport=Viewport(64, 64))
    small = imagecodecs.png_decode(render(grey(array), header(), 1, wanted))
    assert small.shape == (32, 64)
    assert np.abs(small[0].astype(int) - np.arange(64) * 4 - 2).max() <= 4


@pytest.mark.parametrize("text", ["", "40", "40,x", "40,-1", "40,0.5", "1,2,cubic", "nan,1"])
def test_bad_windows(text: str) -> None:
    with pytest.raises(Problem):
        parse_window(text)


@pytest.mark.parametrize("text", ["0", "101", "x", "-1", ""])
def test_bad_quality(text: str) -> None:
    with pytest.raises(Problem):
        parse_quality(text)


@pytest.mark.parametrize("text", ["0,5", "100000,1", "5", "a,b"])
def test_bad_viewport(text: str) -> None:
    with pytest.raises(Problem):
        parse_viewport(text)


def test_good_parameters() -> None:
    assert parse_window("40,400,LINEAR-EXACT") == Window(40, 400, "linear-exact")
    assert parse_quality("75") == 75
    assert parse_viewport("320,200") == Viewport(320, 200)
