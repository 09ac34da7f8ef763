"""The 3-D overview: small, close to the slices, what docs/overview3d-format.md says."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st
from volume_world import SAGITTAL, body, series_datasets

from raypacs.codec import htj2k, volume, volume_planes, volume_rate, volume_wavelet
from raypacs.codec.frame_geometry import FrameGeometry, frames_of
from raypacs.codec.geometry import find_stack
from raypacs.codec.volume_stack import make_volume
from raypacs.codec.wavelet import approximation
from raypacs.errors import InvalidQuery, PackCorrupt, UnsupportedPixels

FACTS = volume.VolumeFacts(
    affine=((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)),
    frames=20,
    instances=20,
    left_out=0,
    repeats=1,
    source_rows=64,
    source_columns=64,
    halvings=0,
    slice_halvings=0,
    raw_bytes=0,
    tilt_degrees=0.0,
    modality="CT",
    units="HU",
    photometric="MONOCHROME2",
    frame_of_reference_uid="1.2.3",
    slope=1.0,
    intercept=0.0,
    integers=True,
    window=(0.0, 100.0),
)


def smooth(count: int, rows: int = 40, columns: int = 48) -> np.ndarray:
    """A body without noise, int16."""
    z, y, x = np.mgrid[0:count, 0:rows, 0:columns]
    return np.rint(500 * np.sin(x / 7) * np.cos(y / 9) + 20 * z).astype(np.int16)


# ---- the wavelet along slices -------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 3, 4, 5, 16, 17, 30, 31])
def test_the_step_along_slices_is_that_of_pywavelets(count: int) -> None:
    values = np.random.default_rng(count).normal(0, 300, (count, 6)).astype(np.float32)
    low, high = volume_wavelet.forward(values)
    coarse, fine = pywt.dwt(values, "bior2.2", mode="reflect", axis=0)
    assert np.allclose(low * math.sqrt(2), coarse[1 : 1 + len(low)], atol=2e-3)
    assert np.allclose(high / math.sqrt(2), -fine[1 : 1 + len(high)], atol=2e-3)
    assert np.allclose(volume_wavelet.inverse(low, high), values, atol=2e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 16, 21, 100])
def test_all_levels_are_undone(count: int) -> None:
    values = np.random.default_rng(count).normal(0, 300, (count, 5)).astype(np.float32)
    levels = volume_wavelet.levels_of(count)
    bands = volume_wavelet.analyse(values.copy(), levels)
    assert tuple(map(len, bands)) == volume_wavelet.band_lengths(count, levels)
    assert sum(map(len, bands)) == count
    assert np.allclose(volume_wavelet.synthesise(bands), values, atol=5e-3)


def test_halved_slices_lie_where_every_other_one_lay() -> None:
    ramp = np.arange(21, dtype=np.int16)[:, None, None] * np.ones((1, 3, 5), np.int16) * 10
    halved = volume.halve_slices(ramp, 1)
    assert halved.shape == (11, 3, 5)
    assert np.allclose(halved[1:-1, 0, 0], np.arange(20, 200, 20))
    assert volume.halve_slices(ramp, 2).shape == (6, 3, 5)
    assert volume.halve_slices(ramp, 0) is ramp


# ---- coding -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "samples",
    [
        smooth(20),
        smooth(16, 5, 3),
        smooth(17, 1, 9),
        smooth(33, 2, 2),
        smooth(20).astype(np.float32) / 7,
        (smooth(20).astype(np.int32) + 600).astype(np.uint16),
        smooth(20).astype(np.int32) * 100_000,
        np.full((16, 8, 8), 7, np.uint8),
    ],
    ids=["int16", "tiny", "row", "2x2", "float", "uint16", "int32", "flat"],
)
def test_what_comes_back_is_close_and_its_loss_is_told(samples: np.ndarray) -> None:
    whole = samples.dtype.kind != "f"
    data = volume.encode_volume(samples, replace(FACTS, integers=whole))
    back = volume.decode_volume(data)
    assert back.voxels.shape == samples.shape == back.header.shape
    difference = back.voxels.astype(np.float64) - samples
    loss = back.header.loss
    peak = float(samples.max()) - float(samples.min())
    assert loss.peak == pytest.approx(peak)
    assert loss.largest == pytest.approx(np.abs(difference).max(), rel=1e-3, abs=1e-3)
    assert loss.rms == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-3, abs=1e-3)
    assert loss.psnr_db > 60
    if peak:
        assert loss.psnr_db == pytest.approx(
            min(200.0, 20 * math.log10(peak / max(loss.rms, 1e-12))), abs=0.1
        )
    assert back.voxels.min() >= samples.min()
    assert back.voxels.max() <= samples.max()


def test_the_size_is_that_asked_for() -> None:
    noise = np.random.default_rng(1).normal(0, 200, (40, 64, 64))
    samples = (smooth(40, 64, 64) + noise).astype(np.int16)
    sizes = []
    for budget in (12_000, 30_000, 80_000):
        data = volume.encode_volume(samples, FACTS, budget_bytes=budget)
        assert 0.8 * budget <= len(data) <= budget
        sizes.append(volume.read_header(data).loss.psnr_db)
    assert sizes == sorted(sizes)
    share = volume.encode_volume(samples, replace(FACTS, raw_bytes=8_000_000))
    assert 30_000 <= len(share) <= 40_000
    assert len(volume.encode_volume(samples, FACTS)) <= volume.LEAST_BYTES


def test_a_hopeless_budget_ends_at_the_coarsest_step() -> None:
    noise = np.random.default_rng(1).integers(0, 65536, (40, 64, 64)).astype(np.uint16)
    data = volume.encode_volume(noise, FACTS, budget_bytes=1500)
    assert volume.read_header(data).coding.step == volume_rate._COARSEST


@pytest.mark.parametrize("seed", range(4))
def test_nothing_wraps_around_however_coarse(seed: int) -> None:
    """Slices and pixels that alternate between the extremes: the most the transform can grow."""
    rng = np.random.default_rng(seed)
    samples = np.where(rng.random((24, 32, 32)) < 0.5, -32768, 32767).astype(np.int16)
    if seed == 0:
        z, y, x = np.indices(samples.shape)
        samples = np.where((z + y + x) % 2, -32768, 32767).astype(np.int16)
    back = volume.decode_volume(volume.encode_volume(samples, FACTS, budget_bytes=4000))
    # A wrapped coefficient would throw whole neighbourhoods to the other side.
    smoothed = samples.astype(float)
    assert abs(back.voxels.astype(float).mean() - smoothed.mean()) < 2000
    finest = volume.decode_volume(volume.encode_volume(samples, FACTS, budget_bytes=10**7))
    assert np.abs(finest.voxels.astype(float) - samples).max() < 200


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    kind=st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4"]),
    seed=st.integers(0, 2**32 - 1),
    budget=st.integers(1, 60_000),
)
def test_any_volume_survives(
    shape: tuple[int, int, int], kind: str, seed: int, budget: int
) -> None:
    info = np.iinfo(kind)
    rng = np.random.default_rng(seed)
    samples = rng.integers(info.min, info.max, shape, np.dtype(kind), endpoint=True)
    back = volume.decode_volume(volume.encode_volume(samples, FACTS, budget_bytes=budget))
    assert back.voxels.shape == shape
    assert np.isfinite(back.voxels).all()
    assert back.header.loss.largest <= float(info.max) - float(info.min)


def test_what_is_no_volume_is_refused() -> None:
    for bad in (np.zeros((4, 4)), np.zeros((0, 4, 4)), np.zeros((4, 4, 4), complex)):
        with pytest.raises(UnsupportedPixels):
            volume.encode_volume(bad, FACTS)
    broken = np.zeros((16, 8, 8), np.float32)
    broken[3, 3, 3] = np.nan
    with pytest.raises(UnsupportedPixels, match="not finite"):
        volume.encode_volume(broken, FACTS)


def test_modality_units_are_int16_where_they_are_such_integers() -> None:
    samples = smooth(20)
    hounsfield = volume.decode_volume(
        volume.encode_volume(samples, replace(FACTS, intercept=-1024.0))
    )
    assert hounsfield.voxels.dtype == np.int16
    assert np.abs(hounsfield.voxels - (samples - 1024)).max() <= hounsfield.header.loss.largest
    scaled = volume.decode_volume(volume.encode_volume(samples, replace(FACTS, slope=0.25)))
    assert scaled.voxels.dtype == np.float32
    assert np.abs(scaled.voxels - samples / 4).max() <= scaled.header.loss.largest + 1e-3
    wide = volume.decode_volume(volume.encode_volume(samples, replace(FACTS, intercept=40_000.0)))
    assert wide.voxels.dtype == np.float32


@pytest.mark.parametrize("count", [20, 41])
def test_the_bytes_are_those_of_the_specification(count: int) -> None:
    samples = smooth(count)
    data = volume.encode_volume(samples, FACTS)
    magic, version, zero, header_length, code_length = struct.unpack_from("<4sHHII", data)
    assert (magic, version, zero) == (b"RPV3", 1, 0)
    assert len(data) == 16 + header_length + code_length + 4
    assert struct.unpack("<I", data[-4:])[0] == zlib.crc32(data[:-4])
    header = json.loads(zlib.decompress(data[16 : 16 + header_length]))
    assert set(header) == {"shape", "facts", "coding", "loss"}
    coding = header["coding"]
    # Written out from docs/overview3d-format.md, with nothing of raypacs.
    code, planes = data[16 + header_length : -4], np.empty(header["shape"])
    for number, length in enumerate(coding["codes"]):
        planes[number :: len(coding["codes"])] = imagecodecs.htj2k_decode(
            code[:length], planar=True
        )
        code = code[length:]
    assert not code
    low, *highs = np.split(planes, np.cumsum(coding["bands"])[:-1])
    gain = math.sqrt(2) ** len(highs)
    low = low / gain
    for high in highs:
        gain /= math.sqrt(2)
        high = high * math.sqrt(2) / gain
        n = len(low) + len(high)
        x = np.empty((n, *low.shape[1:]))

        def d(i: int, high: np.ndarray = high) -> np.ndarray:
            return high[min(max(i, 0), len(high) - 1)]

        for i in range(len(low)):
            x[2 * i] = low[i] - (d(i - 1) + d(i)) / 4
        for i in range(len(high)):
            after = x[2 * i + 2] if 2 * i + 2 < n else x[2 * i]
            x[2 * i + 1] = high[i] + (x[2 * i] + after) / 2
        low = x
    values = np.clip(
        np.rint(low / coding["scale"] + coding["offset"]), coding["low"], coding["high"]
    )
    assert np.abs(values - volume.decode_volume(data).voxels).max() <= 1


def test_damage_is_told() -> None:
    data = volume.encode_volume(smooth(20), FACTS)
    for at in (0, 5, 20, len(data) // 2, len(data) - 2):
        broken = bytearray(data)
        broken[at] ^= 0x55
        with pytest.raises(PackCorrupt):
            volume.decode_volume(bytes(broken))
    for cut in (0, 10, 30, len(data) - 1):
        with pytest.raises(PackCorrupt):
            volume.decode_volume(data[:cut])
    later = bytearray(data)
    later[4] = 2
    with pytest.raises(PackCorrupt, match="version 2"):
        volume.read_header(bytes(later))


# ---- from a stack -------------------------------------------------------------------------------
def coded(datasets: list[pydicom.Dataset], **changes: int) -> volume.Volume:
    """The volume of a series, its frames coded as PREPARE does."""
    frames = [frame for one in datasets for frame in frames_of(one.to_json_dict())]
    by_uid = {one.SOPInstanceUID: one for one in datasets}

    def decode(ordered: Sequence[FrameGeometry], halvings: int) -> Iterator[np.ndarray]:
        for frame in ordered:
            one = by_uid[frame.sop_instance_uid]
            pixels = np.frombuffer(one.PixelData, np.uint16).reshape(one.Rows, one.Columns)
            code = htj2k.encode_frame(pixels, bits_stored=12, signed=False)
            yield htj2k.decode_frame(code.data, skip_resolutions=halvings)

    return volume.decode_volume(
        make_volume(find_stack(frames), decode, levels=5, frame_bytes=changes.get("bytes", 8192))
    )


def assert_shows_the_body(found: volume.Volume, slack: float) -> None:
    """The voxels are those of the known body, at the places that the affine gives."""
    slices, rows, columns = found.header.shape
    k, j, i = np.mgrid[0:slices, 0:rows, 0:columns]
    points = np.stack([i, j, k, np.ones_like(i)], -1) @ np.array(found.header.facts.affine).T
    inner = (slice(2, -2),) * 3
    difference = (found.voxels - body(points[..., :3]))[inner]
    assert np.sqrt((difference**2).mean()) < slack


@pytest.mark.parametrize("orientation", [(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), SAGITTAL])
def test_voxels_lie_where_the_affine_says(orientation: tuple[float, ...]) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    step = tuple(2.0 * float(value) for value in normal)
    first = tuple(-60 * np.array(orientation[:3]) - 48 * np.array(orientation[3:]) - 20 * normal)
    found = coded(series_datasets(24, orientation=orientation, step=step, first=first))
    assert found.voxels.dtype == np.int16
    assert_shows_the_body(found, 12)
    assert (found.header.facts.units, found.header.facts.window) == ("HU", (100.0, 800.0))


def test_a_large_series_is_halved_in_all_directions() -> None:
    series = series_datasets(
        40, step=(0.0, 0.0, 1.0), spacing=0.5, rows=160, columns=200, first=(-50.0, -40.0, -20.0)
    )
    found = coded(series, bytes=64_000 * 4)
    facts = found.header.facts
    assert (facts.halvings, facts.slice_halvings) == (1, 0)
    assert found.header.shape == (40, 80, 100)
    thin = series_datasets(64, step=(0.0, 0.0, 0.5), spacing=0.5, rows=160, columns=200)
    found = coded(thin, bytes=64_000 * 4)
    assert found.header.shape == (32, 80, 100)
    assert np.allclose(np.array(found.header.facts.affine)[:3, :3], np.diag([1.0, 1.0, 1.0]))
    assert_shows_the_body(found, 12)


def test_slices_of_different_scale_come_to_one() -> None:
    """As in PET: each slice has its own slope."""
    series = []
    for number in range(24):
        series += series_datasets(
            1, first=(-60.0, -48.0, -20.0 + 2.0 * number), slope=0.5 + number / 50
        )
        series[-1].SOPInstanceUID = f"1.2.3.1.{number + 1}"
    found = coded(series)
    assert found.voxels.dtype == np.float32
    assert (found.header.facts.slope, found.header.facts.intercept) == (1.0, 0.0)
    assert_shows_the_body(found, 12)


def test_a_window_is_found_where_headers_differ_and_padding_is_no_value() -> None:
    series = series_datasets(20)
    for number, dataset in enumerate(series):
        dataset.WindowCenter = number
        pixels = np.frombuffer(dataset.PixelData, np.uint16).reshape(64, 80).copy()
        pixels[:, :40] = 0
        dataset.PixelData = pixels.tobytes()
        dataset.add_new(0x00280120, "US", 0)
    center, width = coded(series).header.facts.window
    assert center - width / 2 > -600  # padding is -1024 HU
    for dataset in series:
        del dataset.PixelPaddingValue
    center, width = coded(series).header.facts.window
    assert center - width / 2 < -900


@pytest.mark.parametrize(
    ("shape", "levels", "pixel", "distance", "expected"),
    [
        ((140, 512, 512), 5, 0.45, 1.0, (2, 1)),
        ((192, 256, 256), 5, 0.86, 0.9, (1, 1)),
        ((30, 512, 512), 5, 0.9, 2.5, (2, 0)),
        ((31, 512, 512), 5, 0.9, 0.5, (2, 1)),
        ((20, 64, 64), 2, 3.0, 3.0, (0, 0)),
        ((4096, 512, 512), 5, 0.5, 0.25, (2, 3)),
        ((4096, 512, 512), 5, 0.5, 5.0, (4, 0)),
        ((1000, 4000, 4000), 1, 1.0, 4.0, (1, 9)),
    ],
)
def test_reductions(
    shape: tuple[int, int, int],
    levels: int,
    pixel: float,
    distance: float,
    expected: tuple[int, int],
) -> None:
    found = volume.plan_reduction(shape, levels, pixel, distance)
    assert (found.halvings, found.slice_halvings) == expected


# ---- planes -------------------------------------------------------------------------------------
def test_planes_are_cut_where_they_are_asked_for() -> None:
    """Of a tilted series: what comes out is the body itself, on a square grid in the patient."""
    tilt = math.radians(20)
    orientation = (1.0, 0.0, 0.0, 0.0, math.cos(tilt), -math.sin(tilt))
    found = coded(series_datasets(30, orientation=orientation, step=(0.0, 0.0, 2.0)))
    for name, number in volume_planes.AXES.items():
        axis = volume_planes.axis(found.header, name)
        mm = (20.0, 10.0, 15.0)[number]
        plane = volume_planes.standard_plane(found.header, name, mm)
        assert (plane.rows, plane.columns) == (axis.rows, axis.columns)
        values, inside = volume_planes.cut(found, plane)
        r, c = np.mgrid[0 : plane.rows, 0 : plane.columns]
        points = np.array(plane.origin) + plane.spacing_mm * (
            c[..., None] * np.array(plane.row) + r[..., None] * np.array(plane.column)
        )
        assert np.allclose(points[..., number], mm)
        assert 0.5 < inside.mean() <= 1
        near = inside & (np.linalg.norm(points - (20, 10, 15), axis=-1) < 20)
        assert near.sum() > 100
        assert np.sqrt(((values - body(points))[near] ** 2).mean()) < 15


def test_planes_look_as_radiologists_do() -> None:
    found = coded(series_datasets(24))
    left_right, front_back, feet_head = 2.0, 3.0, 5.0  # the ramps of the body

    def change(name: str) -> tuple[float, float]:
        plane = volume_planes.standard_plane(
            found.header, name, (-40.0, -30.0, -10.0)[volume_planes.AXES[name]]
        )
        values, inside = volume_planes.cut(found, plane)
        assert inside.all()
        step = plane.spacing_mm
        corner = values[:12, :12] if name == "axial" else values[-12:, :12]
        return (
            float(np.diff(corner, axis=1).mean()) / step,
            float(np.diff(corner, axis=0).mean()) / step,
        )

    assert change("axial") == pytest.approx((left_right, front_back), abs=0.4)
    assert change("coronal") == pytest.approx((left_right, -feet_head), abs=0.4)
    assert change("sagittal") == pytest.approx((front_back, -feet_head), abs=0.4)


def test_there_is_no_plane_outside() -> None:
    found = coded(series_datasets(20))
    with pytest.raises(InvalidQuery, match="mm=1000 is not"):
        volume_planes.standard_plane(found.header, "axial", 1000)
    with pytest.raises(InvalidQuery, match="axial, coronal, sagittal"):
        volume_planes.axis(found.header, "frontal")
    far = volume_planes.Plane((900.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), 1.0, 8, 8)
    values, inside = volume_planes.cut(found, far)
    assert not inside.any()
    assert not volume_planes.shown(values, inside, (0, 1)).any()


def test_the_window_goes_from_black_to_white() -> None:
    values = np.array([[-100.0, 0.0, 50.0, 100.0, 1000.0, 50.0]], np.float32)
    inside = np.array([[True, True, True, True, True, False]])
    grey = volume_planes.shown(values, inside, (50, 100))
    assert grey.tolist() == [[0, 0, 128, 255, 255, 0]]
    inverted = volume_planes.shown(values, inside, (50, 100), inverted=True)
    assert inverted.tolist() == [[255, 255, 128, 0, 0, 0]]


# ---- low resolutions ----------------------------------------------------------------------------
_ROUNDING = {1: 1.7, 2: 2.7, 3: 3.3}
"""Grey levels that decoded low resolutions differ from PyWavelets, of a CT slice (architecture)."""
_MOST = {1: 1.8, 2: 3.2, 3: 3.8}
"""What the worst of hundreds of slices differs: 1.75, 3.1 and 3.7 were met."""


def _check_low_resolutions(pixels: np.ndarray, bits: int, signed: bool) -> dict[int, float]:
    """Compare with PyWavelets level by level; return the largest difference of each."""
    code = htj2k.encode_frame(pixels, bits_stored=bits, signed=signed)
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    expected = pixels.astype(np.float64)
    found = {}
    for halvings in _ROUNDING:
        # Without clamping between the levels, as the decoder works; at the end it is the depth.
        expected = approximation(expected)
        low = htj2k.decode_frame(
            code.data[: code.resolution_ends[code.levels - halvings]], skip_resolutions=halvings
        )
        assert low.shape == expected.shape
        assert least <= low.min()
        assert low.max() <= most
        found[halvings] = float(np.abs(low - np.clip(expected, least, most)).max())
    return found


def _check_series(slices: list[tuple[np.ndarray, int, bool]]) -> None:
    """The usual slice differs by what is stated, the worst by little more."""
    found = [_check_low_resolutions(*one) for one in slices]
    for halvings in _ROUNDING:
        differences = [one[halvings] for one in found]
        assert np.median(differences) <= _ROUNDING[halvings]
        assert max(differences) <= _MOST[halvings]


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_low_resolutions_of_generated_slices(bits: int, signed: bool) -> None:
    rng = np.random.default_rng(bits)
    y, x = np.mgrid[-1:1:200j, -1:1:230j]
    full = 1 << bits
    shift = full // 2 if signed else 0
    kind = htj2k.container(bits, signed=signed)
    slices = []
    for number in range(4):
        disc = (x**2 + y**2 < 0.5 + number / 10) * (full * 0.9)  # an edge from bottom to top
        noise = rng.normal(0, full / 500, disc.shape)
        slices.append((np.clip(disc + noise, 0, full - 1).astype(np.int64) - shift, bits, signed))
    _check_series([(pixels.astype(kind), bits, signed) for pixels, bits, signed in slices])


@pytest.mark.parametrize(
    "folder",
    [
        "bench/ct_philips_std_1mm_140",
        "bench/mr_siemens_mprage_192",
        "dicom/ct_ge_lightspeed_human_lung",
        "dicom/mr_siemens_prisma_t1",
    ],
)
def test_low_resolutions_of_real_series(shared_data: Path, folder: str) -> None:
    slices = []
    for file in sorted((shared_data / folder).rglob("*.dcm"))[::4]:
        dataset = pydicom.dcmread(file)
        signed = dataset.PixelRepresentation == 1
        pixels = np.frombuffer(dataset.PixelData, "<i2" if signed else "<u2")
        slices.append((pixels.reshape(dataset.Rows, dataset.Columns), dataset.BitsStored, signed))
    _check_series(slices)


@pytest.mark.parametrize(("count", "side"), [(24, 128), (64, 128), (200, 32)])
def test_noise_is_halved_until_it_keeps_the_budget(count: int, side: int) -> None:
    rng = np.random.default_rng(3)
    datasets = series_datasets(count, step=(0.0, 0.0, 3.0), rows=side, columns=side)
    for dataset in datasets:
        dataset.PixelData = rng.integers(0, 4096, (side, side), dtype=np.uint16).tobytes()
    found = coded(datasets, bytes=2 * side * side)
    facts = found.header.facts
    assert sum(found.header.coding.codes) < volume.budget_of(facts)
    assert facts.halvings + facts.slice_halvings > 0
    rows = -(-side >> facts.halvings)
    assert found.header.shape == (-(-count >> facts.slice_halvings), rows, rows)
    assert np.linalg.norm(np.array(facts.affine)[:3, 0]) == 1.5 * 2**facts.halvings
    assert np.linalg.norm(np.array(facts.affine)[:3, 2]) == 3.0 * 2**facts.slice_halvings


def test_what_no_halving_brings_into_the_budget_is_no_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(volume, "LEAST_BYTES", 100)
    with pytest.raises(UnsupportedPixels, match=r"^noise: "):
        coded(series_datasets(24), bytes=64)


def test_halved_sides_are_those_of_the_low_resolutions() -> None:
    frames = (smooth(4, 41, 48) + 1000).astype(np.uint16)
    code = htj2k.encode_frame(frames[1], bits_stored=16, signed=False)
    expected = htj2k.decode_frame(code.data, skip_resolutions=1)
    found = volume.halve_sides(frames)[1]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2  # of rounding, twice
