"""Regions, scaling, mirroring, overlays, profiles and file formats of pictures."""

from __future__ import annotations

import io
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from raypacs.errors import UnsupportedPixels
from raypacs.web.pixels import Picture
from raypacs.web.problem import Problem
from raypacs.web.rendering import (
    Level,
    Viewport,
    Wanted,
    parse_viewport,
    render,
    render_level,
    scaling,
)
from raypacs.web.rendering.accept import choose_picture
from raypacs.web.rendering.asked import parse_overlays, read_wanted
from raypacs.web.rendering.scaling import Grid, Target, covered, target_of

ROWS, COLUMNS = 96, 160
RAMP = np.tile(np.arange(COLUMNS, dtype=np.uint8), (ROWS, 1))


def grey(array: np.ndarray) -> Picture:
    return Picture(array, "MONOCHROME2", 8, 8, False)


def plain() -> Dataset:
    """A header that shows 8 bits as they are."""
    dataset = Dataset()
    dataset.WindowCenter, dataset.WindowWidth = 127.5, 255
    dataset.VOILUTFunction = "LINEAR_EXACT"
    return dataset


def shown(array: np.ndarray, viewport: str, dataset: Dataset | None = None) -> np.ndarray:
    wanted = Wanted("image/png", viewport=parse_viewport(viewport))
    return imagecodecs.png_decode(render(grey(array), dataset or plain(), 1, wanted)).astype(int)


def test_a_region_at_its_own_size_is_cut_out() -> None:
    assert np.array_equal(shown(RAMP, "40,30,20,10,40,30"), RAMP[10:40, 20:60])
    assert np.array_equal(shown(RAMP, "60,86,100,10"), RAMP[10:, 100:])
    assert np.array_equal(shown(RAMP, "160,96,,,,"), RAMP)


def test_negative_sizes_mirror() -> None:
    rows = np.tile(np.arange(ROWS, dtype=np.uint8)[:, None], (1, COLUMNS))
    assert np.array_equal(shown(RAMP, "160,96,0,0,-160,96"), RAMP[:, ::-1])
    assert np.array_equal(shown(rows, "160,96,0,0,160,-96"), rows[::-1])
    assert np.array_equal(shown(RAMP, "40,30,20,10,-40,-30"), RAMP[10:40, 20:60][:, ::-1])


def test_regions_are_fitted_and_cut_at_the_edges() -> None:
    assert shown(RAMP, "80,80").shape == (48, 80)
    assert shown(RAMP, "10,80,0,0,20,80").shape == (40, 10)
    assert shown(RAMP, "100,100,150,86,500,500").shape == (100, 100)
    assert shown(RAMP, "320,320").shape == (192, 320)
    with pytest.raises(Problem):
        target_of(Viewport(10, 10, 160, 0), ROWS, COLUMNS)


@pytest.mark.parametrize("viewport", ["80,48", "53,32", "20,12", "320,192", "1,1"])
def test_scaling_keeps_places_and_values(viewport: str) -> None:
    out = shown(RAMP, viewport)
    count = out.shape[1]
    expected = (np.arange(count) + 0.5) * COLUMNS / count - 0.5
    assert np.abs(out[0] - expected).max() <= 1.01


@pytest.mark.parametrize(
    "text", ["1", "1,2,3", "1,2,3,4,5", "1,2,-1,0", "1,2,0,0,0,5", "1,2,nan,0", "1,2,x,0", "+1,2"]
)
def test_bad_regions(text: str) -> None:
    with pytest.raises(Problem):
        parse_viewport(text)


@pytest.mark.parametrize(
    "viewport", ["53,32", "320,192", "70,90,9,9,-80,-70", "150,96,3,0,155,-90"]
)
@pytest.mark.parametrize("step", [1, 2])
def test_strips_make_the_same_picture(
    monkeypatch: pytest.MonkeyPatch, viewport: str, step: int
) -> None:
    values = np.random.default_rng(5).integers(0, 256, (ROWS // step, COLUMNS // step, 3), np.uint8)
    target = target_of(parse_viewport(viewport), ROWS, COLUMNS)
    whole = scaling.smooth(values, Grid(float(step)), target)
    monkeypatch.setattr(scaling, "_STRIP_SAMPLES", 7 * 3 * COLUMNS)
    assert np.array_equal(scaling.smooth(values, Grid(float(step)), target), whole)


@pytest.mark.parametrize("photometric", ["RGB", "PALETTE COLOR"])
def test_an_enlarged_picture_takes_little_more_than_its_own_bytes(photometric: str) -> None:
    colour = photometric == "RGB"
    array = np.zeros((8, 8, 3) if colour else (8, 8), np.uint8)
    dataset = plain()
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [2, 0, 8])
        setattr(dataset, f"{name}PaletteColorLookupTableData", b"\0\1")
    level = Level(Picture(array, photometric, 8, 8, False), 8, 8)
    wanted = Wanted("image/jpeg", viewport=Viewport(2048, 2048))
    tracemalloc.start()
    render_level(level, dataset, 1, wanted)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * 2048 * 2048 * 3


def test_enlarging_has_an_end() -> None:
    with pytest.raises(Problem, match="at most"):
        target_of(Viewport(8192, 8192), 8, 8)
    assert target_of(Viewport(7680, 4320), 432, 768).rows == 4320
    # The frame in its own size may be larger.
    assert target_of(Viewport(8192, 8192), 8192, 8192).rows == 8192


def test_the_level_is_just_large_enough() -> None:
    def halvings(viewport: str, levels: int = 5) -> int:
        return target_of(parse_viewport(viewport), 512, 512).halvings(levels)

    assert [halvings(f"{side},{side}") for side in (512, 511, 257, 256, 255, 64, 63, 16, 1)] == [
        *(0, 0, 0, 1, 1, 3, 3, 5, 5)
    ]
    assert halvings("64,64", levels=2) == 2
    assert halvings("64,64,0,0,128,128") == 1
    assert halvings("64,512") == 3
    assert halvings("2000,2000") == 0


def test_samples_of_a_smaller_level_lie_at_every_other_pixel() -> None:
    level = Level(grey(RAMP[::4, ::4]), ROWS, COLUMNS, Grid(4.0))
    wanted = Wanted("image/png", viewport=Viewport(40, 24))
    out = imagecodecs.png_decode(render_level(level, plain(), 1, wanted)).astype(int)
    assert np.abs(out[0] - (np.arange(40) * 4 + 1.5))[:-1].max() <= 1


def test_indices_are_never_mixed() -> None:
    labels = np.random.default_rng(1).choice(np.array([0, 7, 200], np.uint8), (64, 64))
    dataset = plain()
    dataset.SegmentationType = "LABELMAP"
    for viewport in ("13,13", "64,64", "100,100", "10,10,3,4,31,-17"):
        assert set(np.unique(shown(labels, viewport, dataset))) <= {0, 7, 200}


def overlay(dataset: Dataset, number: int, frames: np.ndarray, **more: int) -> Dataset:
    """Add an overlay of frames x rows x columns to a header."""
    group = 0x6000 + 2 * number
    bits = np.packbits(frames.astype(np.uint8).ravel(), bitorder="little").tobytes()
    dataset.add_new((group, 0x0010), "US", frames.shape[1])
    dataset.add_new((group, 0x0011), "US", frames.shape[2])
    dataset.add_new((group, 0x0050), "SS", [more.get("top", 1), more.get("left", 1)])
    dataset.add_new((group, 0x0100), "US", 1)
    dataset.add_new((group, 0x0102), "US", 0)
    dataset.add_new((group, 0x3000), "OW", bits + b"\0" * (len(bits) % 2))
    if "first" in more:
        dataset.add_new((group, 0x0015), "IS", frames.shape[0])
        dataset.add_new((group, 0x0051), "US", more["first"])
    return dataset


def drawn(dataset: Dataset, asked: str, number: int = 1, side: int = 9) -> np.ndarray:
    wanted = Wanted("image/png", overlays=parse_overlays(asked))
    black = grey(np.zeros((side, side), np.uint8))
    return imagecodecs.png_decode(render(black, dataset, number, wanted)) == 255


def test_overlays_are_drawn_at_their_origin_when_asked_for() -> None:
    plane = np.random.default_rng(2).random((1, 5, 3)) < 0.5
    dataset = overlay(plain(), 0, plane, top=3, left=4)
    overlay(dataset, 2, np.ones((1, 2, 2), bool), top=0, left=9)
    expected = np.zeros((9, 9), bool)
    assert np.array_equal(drawn(dataset, "none"), expected)
    expected[2:7, 3:6] = plane[0]
    assert np.array_equal(drawn(dataset, "0"), expected)
    # Partly outside, and one that is not there.
    expected[0, 8] = True
    assert np.array_equal(drawn(dataset, "all"), expected)
    assert np.array_equal(drawn(dataset, "0,2,7"), expected)


def test_frames_of_overlays_that_do_not_begin_at_bytes() -> None:
    planes = np.random.default_rng(3).random((3, 5, 5)) < 0.5
    dataset = overlay(plain(), 1, planes, first=2)
    assert not drawn(dataset, "1", 1).any()
    for number in (2, 3, 4):
        assert np.array_equal(drawn(dataset, "1", number)[:5, :5], planes[number - 2])
    assert not drawn(dataset, "1", 5).any()


def test_one_plane_without_frames_is_for_all() -> None:
    dataset = overlay(plain(), 0, np.ones((1, 2, 2), bool))
    assert drawn(dataset, "0", 7)[:2, :2].all()


def test_overlays_in_unused_bits_are_read_from_the_cells() -> None:
    dataset = plain()
    for element, value in ((0x10, 2), (0x11, 3), (0x100, 16), (0x102, 12)):
        dataset.add_new((0x6000, element), "US", value)
    cells = np.array([[0x1000, 0, 0], [0, 0x1005, 0x0005]], np.uint16)
    level = Level(Picture(cells & 0xFFF, "MONOCHROME2", 16, 12, False), 2, 3, cells=cells)
    wanted = Wanted("image/png", overlays=frozenset({0}))
    out = imagecodecs.png_decode(render_level(level, dataset, 1, wanted))
    assert out.tolist() == [[255, 0, 0], [0, 255, 5]]


def test_damaged_overlays_are_passed_over() -> None:
    dataset = overlay(plain(), 0, np.ones((1, 8, 8), bool))
    dataset[0x6000, 0x3000].value = b"\xff\xff"
    overlay(dataset, 1, np.ones((1, 2, 2), bool))
    del dataset[0x6002, 0x0011]
    assert not drawn(dataset, "all").any()


def test_thin_lines_stay_when_scaled_down() -> None:
    mask = np.zeros((90, 90), bool)
    mask[:, 44] = True
    small = covered(mask, Target(10, 10, 0, 0, 90, 90))
    assert small[:, 4].all()
    assert small.sum() == 10
    mirrored = covered(mask, Target(10, 10, 0, 0, 90, 90, mirror_x=True))
    assert np.array_equal(mirrored, small[:, ::-1])
    assert np.array_equal(
        covered(mask, Target(180, 180, 0, 0, 90, 90)), np.kron(mask, np.ones((2, 2)))
    )


RGB = np.random.default_rng(4).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def colour(asked: str, media: str, profile: bytes | None) -> Image.Image:
    dataset = Dataset()
    if profile is not None:
        dataset.ICCProfile = profile
    wanted = Wanted(media, profile=asked)
    return Image.open(io.BytesIO(render(Picture(RGB, "RGB", 8, 8, False), dataset, 1, wanted)))


@pytest.mark.parametrize("media", ["image/png", "image/jpeg"])
def test_profiles_go_with_the_picture_as_asked(media: str) -> None:
    adobe = bytes(imagecodecs.cms_profile("adobergb"))
    assert "icc_profile" not in colour("no", media, adobe).info
    assert colour("yes", media, adobe).info["icc_profile"] == adobe
    assert colour("yes", media, None).info["icc_profile"][36:40] == b"acsp"
    long = adobe + bytes(200_000)
    assert colour("yes", media, long).info["icc_profile"] == long


def test_colours_are_converted_to_srgb() -> None:
    adobe = bytes(imagecodecs.cms_profile("adobergb"))
    same = np.asarray(colour("srgb", "image/png", None))
    assert np.array_equal(same, RGB)
    moved = np.asarray(colour("srgb", "image/png", adobe)).astype(int)
    assert np.abs(moved - RGB).max() > 5
    with pytest.raises(UnsupportedPixels):
        colour("srgb", "image/png", b"no profile at all" * 20)


@pytest.mark.parametrize("media", ["image/png", "image/jpeg", "image/webp"])
@pytest.mark.parametrize("array", [RAMP, np.repeat(RAMP[..., None], 3, 2)])
def test_every_format_shows_the_same(media: str, array: np.ndarray) -> None:
    photometric = "MONOCHROME2" if array.ndim == 2 else "RGB"
    picture = Picture(array, photometric, 8, 8, False)
    out = Image.open(io.BytesIO(render(picture, plain(), 1, Wanted(media, quality=95))))
    assert Image.MIME[out.format or ""] == media
    assert np.abs(np.asarray(out.convert("L")).astype(int) - RAMP).max() <= 4


@pytest.mark.parametrize(
    ("accept", "several", "expected"),
    [
        ("", False, ("image/jpeg", False)),
        ("*/*", False, ("image/jpeg", False)),
        ("*/*", True, ("image/jpeg", True)),
        ("image/*", False, ("image/jpeg", False)),
        ("image/png", False, ("image/png", False)),
        ("image/png", True, None),
        ("image/jpeg;q=0.5, image/*;q=0.8", False, ("image/png", False)),
        ("image/jpeg;q=0, image/*", False, ("image/png", False)),
        ("image/avif,image/webp,*/*;q=0.1", False, ("image/webp", False)),
        ("application/dicom", False, None),
        ('multipart/related; type="image/png"', False, ("image/png", True)),
        ('multipart/related; type="image/png"', True, ("image/png", True)),
        ('multipart/related; type="image/png";q=0.4, image/jpeg', True, ("image/png", True)),
        ("multipart/related", True, ("image/jpeg", True)),
        ('multipart/related; type="application/dicom"', True, None),
    ],
)
def test_accept(accept: str, several: bool, expected: tuple[str, bool] | None) -> None:
    assert choose_picture(accept, several=several) == expected


@pytest.mark.parametrize(
    "query",
    [
        {"annotation": "patient"},
        {"iccprofile": "adobergb"},
        {"invert": "1"},
        {"overlay": "16"},
        {"overlay": "x"},
        {"overlay": ""},
        {"quality": "101"},
    ],
)
def test_what_is_not_offered_is_said(query: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        read_wanted(query, "image/png")
    assert caught.value.status == 400
