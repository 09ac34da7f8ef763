"""PREPARE without a cluster: what is prepared, what is copied, and that a bad frame stays alone."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from stored_series import Store, image, noise, part10

from raypacs.codec import htj2k, registry
from raypacs.config import CompressionRule, Settings, TierSettings
from raypacs.errors import AlreadyExists, ConfigError, NotFound, TierUnavailable
from raypacs.records import Lease, PreparedSeries
from raypacs.work import prepare

NATIVE = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def pixels_of(store: Store, series: PreparedSeries, number: int = 0) -> np.ndarray:
    """Decode all frames of one prepared instance: frames x rows x columns [x samples]."""
    one = series.instances[number]
    pack = store.open(series)
    return np.stack(
        [
            htj2k.decode_frame(pack.read_frame(one.sop_instance_uid, n))
            for n in range(1, one.frames + 1)
        ]
    )


@pytest.mark.parametrize("syntax", NATIVE)
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4"])
@pytest.mark.parametrize("count", [1, 3])
def test_native_sources(store: Store, syntax: str, dtype: str, count: int) -> None:
    frames = noise(count, 10, 12, bits=8 * min(2, np.dtype(dtype).itemsize))
    frames = (frames.astype(np.int64) - (100 if dtype[0] == "i" else 0)).astype(dtype)
    if dtype == "u4" and syntax == ExplicitVRBigEndian:
        return  # the writer of these tests swaps 16-bit samples only
    dataset = image(frames, transfer_syntax=syntax)
    if syntax == ExplicitVRBigEndian and frames.itemsize == 1:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "u2").byteswap().tobytes()
        dataset["PixelData"].VR = "OW"
    series = store.prepare([store.add(part10(dataset))], chunk_bytes=2 * 1024 * 1024)
    assert [(one.form, one.reason) for one in series.instances] == [("htj2k", "")]
    assert np.array_equal(pixels_of(store, series), frames)
    assert series.instances[0].raw_bytes == frames.nbytes


ENCAPSULATED = {
    RLELossless: None,
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(
        a, level=0, codecformat="j2k", reversible=True
    ),
    HTJ2KLossless: imagecodecs.htj2k_encode,
}


@pytest.mark.parametrize("syntax", list(ENCAPSULATED))
def test_lossless_encapsulated_sources(store: Store, syntax: str) -> None:
    frames = noise(4, 40, 50)
    dataset = image(frames, transfer_syntax=ExplicitVRLittleEndian, bits_stored=16)
    encode = ENCAPSULATED[syntax]
    if encode is None:
        dataset.compress(RLELossless, generate_instance_uid=False)
    else:
        dataset.PixelData = encapsulate([encode(frame) for frame in frames])
        dataset.file_meta.TransferSyntaxUID = syntax
    series = store.prepare([store.add(part10(dataset))], chunk_bytes=8000)
    assert [(one.form, one.reason) for one in series.instances] == [("htj2k", "")]
    assert np.array_equal(pixels_of(store, series), frames)


def test_an_extended_offset_table_tells_fragments_apart(store: Store) -> None:
    frames = noise(3, 20, 20)
    codes = [imagecodecs.htj2k_encode(frame) for frame in frames]
    dataset = image(frames, transfer_syntax=HTJ2KLossless, bits_stored=16)
    dataset.PixelData, offsets, lengths = encapsulate_extended(codes)
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    series = store.prepare([store.add(part10(dataset))])
    assert np.array_equal(pixels_of(store, series), frames)
    rebuilt = pydicom.dcmread(
        io.BytesIO(b"".join(store.open(series).part10(series.instances[0].sop_instance_uid)))
    )
    assert "ExtendedOffsetTable" not in rebuilt
    assert np.array_equal(rebuilt.pixel_array, frames)


def with_icons(*, undefined: bool = False, damaged: bool = False) -> tuple[bytes, np.ndarray]:
    """A compressed image with a compressed icon, and a private copy of it one sequence deeper."""
    frames = noise(1, 20, 20)
    dataset = image(frames, transfer_syntax=HTJ2KLossless, bits_stored=16)
    dataset.PixelData = encapsulate([imagecodecs.htj2k_encode(frames[0])])
    pixels = noise(1, 5, 7, bits=8)
    code = imagecodecs.htj2k_encode(pixels[0])
    icon = image(pixels)
    del icon.file_meta, icon.InstanceNumber
    icon.PixelData = encapsulate([code[:40] if damaged else code])
    icon["PixelData"].VR = "OB"
    icon["PixelData"].is_undefined_length = True
    outer = Dataset()
    outer.add_new(0x00990010, "LO", "VENDOR")
    outer.add_new(0x00991001, "SQ", [icon])
    dataset.IconImageSequence = [icon]
    dataset.SourceImageSequence = [outer]
    for sequence in (dataset["IconImageSequence"], dataset["SourceImageSequence"]):
        sequence.is_undefined_length = undefined
    for item in (icon, outer):
        item.is_undefined_length_sequence_item = undefined
    dataset.add_new(0x00990010, "LO", "AFTER THE ICON")
    return part10(dataset), pixels[0]


@pytest.mark.parametrize("undefined", [False, True])
def test_compressed_icons_are_decoded(store: Store, undefined: bool) -> None:
    data, pixels = with_icons(undefined=undefined)
    series = store.prepare([store.add(data)])
    (one,) = series.instances
    assert (one.form, one.reason) == ("htj2k", "")
    pack = store.open(series)
    rebuilt = pydicom.dcmread(io.BytesIO(b"".join(pack.part10(one.sop_instance_uid))))
    for icon in (
        rebuilt.IconImageSequence[0],
        rebuilt.SourceImageSequence[0][0x00991001].value[0],
    ):
        assert icon.PixelData == pixels.tobytes() + b"\0"
        assert (icon.Rows, icon.Columns) == pixels.shape
    assert rebuilt[0x00990010].value == "AFTER THE ICON"


def test_an_icon_that_cannot_be_decoded_keeps_its_transfer_syntax(store: Store) -> None:
    (one,) = store.prepare([store.add(with_icons(damaged=True)[0])]).instances
    assert one.form == "copied"
    assert one.reason


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colour(store: Store, photometric: str, planar: int) -> None:
    frames = np.stack([noise(2, 30, 20, bits=8, seed=n) for n in range(3)], axis=-1)
    dataset = image(frames, PhotometricInterpretation=photometric, PlanarConfiguration=planar)
    if planar:
        dataset.PixelData = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).tobytes()
    series = store.prepare([store.add(part10(dataset))])
    assert np.array_equal(pixels_of(store, series), frames)
    pack = store.open(series)
    uid = series.instances[0].sop_instance_uid
    rebuilt = pydicom.dcmread(io.BytesIO(b"".join(pack.part10(uid))))
    assert rebuilt.PlanarConfiguration == 0
    assert rebuilt.PhotometricInterpretation == {"RGB": "YBR_RCT"}.get(photometric, photometric)
    metadata = pack.metadata(uid)
    assert metadata["00280004"]["Value"] == [photometric]
    assert metadata["00280006"]["Value"] == [0]


def test_an_odd_number_of_8_bit_samples_and_elements_after_pixel_data(store: Store) -> None:
    frames = noise(3, 5, 7, bits=8)
    data = part10(image(frames))
    trailer = b"\xe1\x7f\x10\x00LO\x04\x00ACME"
    padding = b"\xfc\xff\xfc\xffOB\x00\x00\x04\x00\x00\x00" + bytes(4)
    series = store.prepare([store.add(data + trailer + padding)])
    assert np.array_equal(pixels_of(store, series), frames)
    pack = store.open(series)
    uid = series.instances[0].sop_instance_uid
    rebuilt = b"".join(
        pack.part10(uid, str(ExplicitVRLittleEndian), lambda d, _: htj2k.decode_frame(d).tobytes())
    )
    begin = data.index(b"\x08\x00\x16\x00UI")
    assert rebuilt.endswith(data[begin:] + trailer)
    assert pydicom.dcmread(io.BytesIO(b"".join(pack.part10(uid))))[0x7FE10010].value == "ACME"


def test_a_bad_frame_costs_its_instance_only(store: Store) -> None:
    frames = noise(12, 40, 40)
    spoilt = noise(9, 40, 40, seed=1)
    spoilt[7, 3, 3] |= 0x8000  # an old overlay in an unused bit
    sources = [
        part10(image(frames[:5], bits_stored=12, InstanceNumber=1)),
        part10(image(spoilt, bits_stored=12, InstanceNumber=2)),
        part10(image(frames[5:], bits_stored=12, InstanceNumber=3)),
    ]
    instances = [store.add(data) for data in sources]
    chunks = prepare.plan_chunks(instances, 8000)
    assert len(chunks) > 6  # two frames each
    context = store.context("1.2.3")
    parts = [prepare.prepare_chunk(chunk, context) for chunk in chunks]
    series = prepare.publish_series(pickle.loads(pickle.dumps(parts)), context)
    assert [one.form for one in series.instances] == ["htj2k", "copied", "htj2k"]
    assert series.instances[1].reason == "values outside 12 bits stored"
    assert np.array_equal(pixels_of(store, series, 0), frames[:5])
    assert np.array_equal(pixels_of(store, series, 2), frames[5:])
    pack = store.open(series)
    assert pack.read_object(series.instances[1].sop_instance_uid) == sources[1]
    assert len(list(pack.low_resolution())) == 12
    assert len(pack.metadata(series.instances[1].sop_instance_uid)) > 10


def test_a_failed_proof_is_not_published_as_prepared(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lying(registry.Htj2kCodec):
        def decode(self, data: htj2k.Buffer) -> htj2k.Array:
            frame = super().decode(data).copy()
            frame[0, 0] ^= 1
            return frame

    monkeypatch.setitem(registry._CODECS, "htj2k", Lying())
    source = part10(image(noise(1, 20, 20)))
    series = store.prepare([store.add(source)])
    (one,) = series.instances
    assert (one.form, one.lossless_proven) == ("copied", False)
    assert one.reason.startswith("proof failed")
    assert store.open(series).read_object(one.sop_instance_uid) == source


def test_a_rule_copies(store: Store) -> None:
    rule = CompressionRule(name="keep CT", action="copy", modalities=("CT",))
    series = store.prepare([store.add(part10(image(noise(2, 9, 9))))], rules=[rule])
    assert [(one.form, one.reason) for one in series.instances] == [("copied", "rule keep CT")]
    assert len(store.open(series).read_frame(series.instances[0].sop_instance_uid, 2)) == 162


@pytest.mark.parametrize("frames", [4, 200_000_000])
def test_native_pixels_that_are_too_short_are_copied(store: Store, frames: int) -> None:
    dataset = image(noise(3, 16, 16), NumberOfFrames=frames)
    series = store.prepare([store.add(part10(dataset))])
    assert series.instances[0].form == "copied"
    assert series.instances[0].reason == "fewer pixel bytes than frames"


def test_a_pack_is_visible_whole_and_parts_go_away(store: Store) -> None:
    instances = [store.add(part10(image(noise(1, 64, 64), InstanceNumber=n))) for n in range(4)]
    context = store.context("1.2.3")
    (chunk,) = prepare.plan_chunks(instances, 2**20)
    prepare.prepare_chunk(chunk, context)
    part = prepare.prepare_chunk(chunk, context)  # a task may run again
    assert not list(store.web.walk("studies/"))
    series = prepare.publish_series([part], context)
    again = prepare.publish_series([part], context)
    assert (again.pack_path, again.pack_bytes) == (series.pack_path, series.pack_bytes)
    assert sorted(info.path for info in store.web.walk("studies/")) == sorted(
        [series.pack_path, series.header_path]
    )
    prepare.abandon(context)
    prepare.abandon(context)
    assert not list(store.web.walk("attempts/"))
    assert store.open(series).instances
    prepare.abandon(store.context("1.2.3"), published=True)  # another attempt's token
    assert store.web.exists(series.pack_path)
    prepare.abandon(context, published=True)
    assert not list(store.web.walk(""))


def test_a_part_that_is_gone_publishes_nothing(store: Store) -> None:
    context = store.context("1.2.3")
    (chunk,) = prepare.plan_chunks([store.add(part10(image(noise(1, 8, 8))))], 2**20)
    part = prepare.prepare_chunk(chunk, context)
    prepare.abandon(context)
    with pytest.raises(NotFound):
        prepare.publish_series([part], context)
    assert not list(store.web.walk("studies/"))


def test_an_instance_that_is_gone_is_an_error_not_a_copy(store: Store) -> None:
    stored = store.add(part10(image(noise(1, 8, 8))))
    store.image.delete(stored.record.path)
    (chunk,) = prepare.plan_chunks([stored], 2**20)
    with pytest.raises(NotFound):
        prepare.prepare_chunk(chunk, store.context("1.2.3"))
    elsewhere = replace(stored, record=replace(stored.record, tier="image9"))
    (chunk,) = prepare.plan_chunks([elsewhere], 2**20)
    with pytest.raises(TierUnavailable):
        prepare.prepare_chunk(chunk, store.context("1.2.3"))


def test_large_objects_are_read_by_ranges(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_WHOLE_BYTES", 0)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian):
        frames = noise(5, 30, 40)
        data = part10(image(frames, transfer_syntax=syntax))
        series = store.prepare([store.add(data)])
        assert np.array_equal(pixels_of(store, series), frames)
        header = store.open(series).header_bytes(series.instances[0].sop_instance_uid)
        meta = pydicom.dcmread(io.BytesIO(data[:132] + data[132:]), stop_before_pixels=True)
        assert pydicom.dcmread(io.BytesIO(header), force=True).Rows == meta.Rows


def test_objects_without_files_work_as_well(tmp_path: Path) -> None:
    store = Store(tmp_path, url=f"memory://prepare-{tmp_path.name}")
    frames = noise(3, 70, 70)
    series = store.prepare(
        [store.add(part10(image(frames[n : n + 1], InstanceNumber=n))) for n in range(3)]
    )
    assert np.array_equal(pixels_of(store, series, 2)[0], frames[2])


def lease() -> Lease:
    return Lease(1, "prepare", "1.2.3", 1, 1, "0" * 16, 1, "node", 0.0)


def test_context_of_a_lease(store: Store) -> None:
    context = prepare.make_context(Settings(tiers=store.settings), lease())
    assert (context.token, context.study_uid, context.web.name) == ("0" * 16, "1.2.3", "web1")
    assert pickle.loads(pickle.dumps(context)) == context
    with pytest.raises(ConfigError):
        prepare.make_context(Settings(tiers=store.settings[:1]), lease())


def test_a_second_web_tier_is_used_when_the_first_is_full(store: Store) -> None:
    webs = tuple(
        TierSettings(name=f"web{n}", role="web", url=f"memory://{n}", order=n) for n in (1, 2, 3)
    )
    settings = Settings(tiers=(*store.settings[:1], *webs))

    def chosen(**available_bytes: int) -> str:
        context = prepare.make_context(
            settings, lease(), available_bytes=available_bytes, need_bytes=100
        )
        return context.web.name

    assert chosen(web1=100, web2=500) == "web1"
    assert chosen(web1=99, web2=100, web3=10**9) == "web2"
    assert chosen(web2=100) == "web2"  # web1 cannot be reached, or has just refused
    assert chosen(web1=10, web2=20, web3=20) == "web2"  # too small, roughly: let the tier tell
    assert chosen(image1=10**9) == "web1"


def test_two_attempts_never_meet(store: Store) -> None:
    stored = store.add(part10(image(noise(1, 8, 8))))
    first, second = store.prepare([stored]), store.prepare([stored])
    assert first.pack_path != second.pack_path
    with pytest.raises(AlreadyExists):
        store.web.put_durable(first.pack_path, b"")


def test_zero_bytes_behind_the_data_set_do_not_make_a_copy(tmp_path: Path) -> None:
    store = Store(tmp_path)
    plain = part10(image(noise(1, 64, 64)))
    (instance,) = store.prepare([store.add(plain + bytes(1024))]).instances
    assert (instance.form, instance.reason) == ("htj2k", "")
