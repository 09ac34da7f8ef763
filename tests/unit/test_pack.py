"""Packs as written by PREPARE: by raypacs' reader, and by one that uses nothing of raypacs."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pack_reader
import pydicom
import pytest
from pydicom.uid import JPEGBaseline8Bit, RLELossless
from stored_series import Store, image, noise, part10

from raypacs.codec import htj2k
from raypacs.errors import NotFound, PackCorrupt, UnsupportedPixels
from raypacs.records import PackRef, PreparedSeries
from raypacs.storage import pack_format
from raypacs.storage.pack import Pack

HTJ2K_RPCL = "1.2.840.10008.1.2.4.202"
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, PreparedSeries, list[bytes]]:
    """A series with every form: slices, a multi-frame, colour, copied with and without frames."""
    store = Store(tmp_path_factory.mktemp("pack"))
    slices = noise(6, 130, 100)
    sources = [
        part10(image(slices[n : n + 1], bits_stored=12, InstanceNumber=n + 1)) for n in range(6)
    ]
    sources.append(part10(image(noise(9, 70, 80, bits=8), InstanceNumber=7)))
    colour = np.stack([noise(2, 90, 64, bits=8, seed=n) for n in range(3)], axis=-1)
    sources.append(part10(image(colour, InstanceNumber=8)))
    sources.append(part10(image(noise(2, 8, 8, bits=8), bits_stored=7, InstanceNumber=9)))
    lossy = image(noise(3, 8, 8, bits=8), InstanceNumber=10, transfer_syntax=JPEGBaseline8Bit)
    lossy.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8one1", b"\xff\xd8two2", b"\xff\xd8333"])
    sources.append(part10(lossy))
    report = image(noise(1, 4, 4), InstanceNumber=11)
    del report.PixelData
    sources.append(part10(report))
    series = store.prepare([store.add(data) for data in sources], chunk_bytes=70_000)
    return store, series, sources


def uids(series: PreparedSeries) -> list[str]:
    return [one.sop_instance_uid for one in series.instances]


def test_forms_and_reasons(world: tuple) -> None:
    _, series, sources = world
    assert [one.form for one in series.instances] == ["htj2k"] * 8 + ["copied"] * 3
    assert [one.frames for one in series.instances] == [1] * 6 + [9, 2, 2, 3, 0]
    assert [one.reason.split()[0] for one in series.instances[8:]] == ["values", "lossy", "no"]
    assert all(one.lossless_proven == (one.form == "htj2k") for one in series.instances)
    assert series.instances[9].prepared_bytes == len(sources[9])


def test_an_independent_reader_finds_every_frame(world: tuple) -> None:
    store, series, sources = world
    data, sidecar_data = store.web.read(series.pack_path), store.web.read(series.header_path)
    assert (len(data), len(sidecar_data)) == (series.pack_bytes, series.header_bytes)
    pack, sidecar = pack_reader.PackFile(data), pack_reader.Sidecar(sidecar_data)
    assert pack.token.decode() == sidecar.token.decode() == series.token
    assert list(pack.instances) == uids(series)
    for uid, source in zip(uids(series)[:8], sources, strict=False):
        dataset = pydicom.dcmread(io.BytesIO(source))
        expected = dataset.pixel_array.reshape(-1, *dataset.pixel_array.shape[-2:])
        if dataset.SamplesPerPixel == 3:
            expected = dataset.pixel_array
        elif pack.instances[uid]["frames"] == 1:
            expected = dataset.pixel_array[None]
        frames = pack.frames(uid)
        assert len(frames) == pack.instances[uid]["frames"]
        for (low, rest), pixels in zip(frames, expected, strict=True):
            assert np.array_equal(imagecodecs.jpeg2k_decode(low + rest), pixels)
            halvings = pack.instances[uid]["low_halvings"]
            small = imagecodecs.htj2k_decode(low, skipres=halvings)
            assert max(small.shape[:2]) <= 64 < 2 * max(small.shape[:2])


def test_an_independent_reader_rebuilds_headers_and_metadata(world: tuple) -> None:
    store, series, sources = world
    sidecar = pack_reader.Sidecar(store.web.read(series.header_path))
    everything = sidecar.all_metadata()
    assert [one["00080018"]["Value"][0] for one in everything] == uids(series)
    for uid, source, metadata in zip(uids(series), sources, everything, strict=True):
        assert sidecar.metadata(uid) == metadata
        header = sidecar.header(uid)
        if header is None:
            continue
        begin = source.index(b"\x08\x00\x16\x00UI")
        end = source.index(b"\xe0\x7f\x10\x00")
        assert header == (source[begin:end], b"")


def test_low_parts_are_one_range(world: tuple) -> None:
    store, series, _ = world
    pack = pack_reader.PackFile(store.web.read(series.pack_path))
    lows = b"".join(low for uid in uids(series)[:8] for low, _ in pack.frames(uid))
    assert pack.data[pack.low : pack.low + pack.low_length] == lows
    reader = store.open(series)
    assert reader.low_extent() == (pack.low, pack.low_length)
    frames = list(reader.low_resolution())
    assert b"".join(frame.data for frame in frames) == lows
    assert [frame.frame_number for frame in frames] == [1] * 6 + list(range(1, 10)) + [1, 2]
    assert frames[7].data == reader.read_low(frames[7].sop_instance_uid, 2)


def test_reader_gives_every_frame_by_extent_and_checked(world: tuple) -> None:
    store, series, _ = world
    reader = store.open(series)
    independent = pack_reader.PackFile(store.web.read(series.pack_path))
    assert (reader.study_uid, reader.series_uid) == ("1.2.3", "1.2.3.4")
    for uid in uids(series)[:10]:
        for number, (low, rest) in enumerate(independent.frames(uid), 1):
            assert reader.read_frame(uid, number) == low + rest
            joined = b"".join(
                store.web.read(series.pack_path, *extent)
                for extent in reader.frame_extents(uid, number)
            )
            assert joined == low + rest


def test_copied_objects_are_whole_and_their_frames_found(world: tuple) -> None:
    store, series, sources = world
    reader = store.open(series)
    for uid, source in zip(uids(series)[8:], sources[8:], strict=True):
        assert reader.read_object(uid) == source
        assert b"".join(reader.part10(uid)) == source
        with pytest.raises(NotFound):
            reader.header_bytes(uid)
    assert reader.read_frame(uids(series)[9], 2) == b"\xff\xd8two2"
    pixels = pydicom.dcmread(io.BytesIO(sources[8])).PixelData
    assert reader.read_frame(uids(series)[8], 2) == pixels[64:128]


def test_prepared_instances_are_valid_dicom(world: tuple) -> None:
    store, series, sources = world
    reader = store.open(series)
    for uid, source in zip(uids(series)[:8], sources, strict=False):
        original = pydicom.dcmread(io.BytesIO(source))
        prepared = pydicom.dcmread(io.BytesIO(b"".join(reader.part10(uid))))
        assert prepared.file_meta.TransferSyntaxUID == HTJ2K_RPCL
        assert np.array_equal(prepared.pixel_array, original.pixel_array)
        colour = original.SamplesPerPixel == 3
        assert prepared.PhotometricInterpretation == ("YBR_RCT" if colour else "MONOCHROME2")
        for element in original:
            if element.keyword not in ("PixelData", "PhotometricInterpretation"):
                assert prepared[element.tag] == element


def test_decoded_instances_are_the_source_again(world: tuple) -> None:
    store, series, sources = world
    reader = store.open(series)

    def decode(data: bytes, instance: pack_format.PackInstance) -> bytes:
        del instance
        return htj2k.decode_frame(data).tobytes()

    for uid, source in zip(uids(series)[6:8], sources[6:8], strict=True):
        rebuilt = b"".join(reader.part10(uid, EXPLICIT, decode=decode))
        assert (
            rebuilt[rebuilt.index(b"\x08\0\x16\0UI") :] == source[source.index(b"\x08\0\x16\0UI") :]
        )
    with pytest.raises(UnsupportedPixels):
        reader.part10(uids(series)[0], "1.2.840.10008.1.2.4.80")


def test_metadata_is_served_as_it_lies(world: tuple) -> None:
    store, series, _ = world
    reader = store.open(series)
    everything = json.loads(gzip.decompress(reader.metadata_gzip()))
    assert [reader.metadata(uid) for uid in uids(series)] == everything
    assert everything[7]["00280004"]["Value"] == ["RGB"]


def test_what_is_not_there(world: tuple) -> None:
    store, series, _ = world
    reader = store.open(series)
    first = uids(series)[0]
    for number in (0, 2):
        with pytest.raises(NotFound):
            reader.read_frame(first, number)
    with pytest.raises(NotFound):
        reader.read_frame("9.9", 1)
    with pytest.raises(NotFound):
        reader.read_object(first)
    with pytest.raises(NotFound):
        Pack(store.web, PackRef("web1", "studies/none.pack", "studies/none.hdr", "0" * 16))


def damaged(store: Store, series: PreparedSeries, kind: str, change: object) -> Pack:
    """Open a copy of the pack whose ``kind`` ('pack' or 'hdr') was changed by ``change``."""
    ref = PackRef("web1", f"bad/{id(change)}.pack", f"bad/{id(change)}.hdr", series.token)
    parts = {"pack": store.web.read(series.pack_path), "hdr": store.web.read(series.header_path)}
    parts[kind] = change(bytearray(parts[kind]))
    for suffix, path in (("pack", ref.pack_path), ("hdr", ref.header_path)):
        if store.web.exists(path):
            store.web.delete(path)
        store.web.put_transient(path, bytes(parts[suffix]))
    return Pack(store.web, ref)


def flip(where: int) -> object:
    def change(data: bytearray) -> bytearray:
        data[where] ^= 0x40
        return data

    return change


@pytest.mark.parametrize("where", [-1, -5, -10, -30, -56, -60, -200])
def test_damage_in_footer_or_index_is_found(world: tuple, where: int) -> None:
    with pytest.raises(PackCorrupt):
        damaged(*world[:2], "pack", flip(where))


@pytest.mark.parametrize("keep", [0, 10, 56, 1000])
def test_a_pack_that_is_cut_off_is_found(world: tuple, keep: int) -> None:
    with pytest.raises(PackCorrupt):
        damaged(*world[:2], "pack", lambda data: data[:keep])


def test_damage_in_a_frame_is_found(world: tuple) -> None:
    store, series, _ = world
    first = uids(series)[0]
    low, rest = store.open(series).frame_extents(first, 1)
    for where in (low[0] + 60, rest[0] + 60):
        reader = damaged(store, series, "pack", flip(where))
        with pytest.raises(PackCorrupt):
            reader.read_frame(first, 1)
        assert reader.read_frame(uids(series)[1], 1)


def test_damage_in_a_copied_object_is_found(world: tuple) -> None:
    store, series, _ = world
    uid = uids(series)[8]
    offset = store.open(series).instance(uid).object_offset
    reader = damaged(store, series, "pack", flip(offset + 200))
    with pytest.raises(PackCorrupt):
        reader.read_object(uid)
    with pytest.raises(PackCorrupt):
        list(reader.part10(uid))


@pytest.mark.parametrize("where", [-1, -5, -10, -20, -60])
def test_damage_in_the_sidecar_is_found(world: tuple, where: int) -> None:
    reader = damaged(*world[:2], "hdr", flip(where))
    with pytest.raises(PackCorrupt):
        reader.metadata_gzip()


def test_no_flipped_bit_of_the_sidecar_gives_another_answer(world: tuple) -> None:
    store, series, _ = world
    uid = uids(series)[0]
    whole = store.open(series)
    text, header = whole.metadata(uid), whole.header_bytes(uid)
    size = store.web.size(series.header_path)
    found = 0
    for where in range(40, size - 40, max(1, size // 150)):
        try:
            reader = damaged(store, series, "hdr", flip(where))
            assert reader.metadata(uid) == text
            assert reader.header_bytes(uid) == header
        except PackCorrupt:
            found += 1
    assert found > 20


def test_native_pixel_data_of_more_than_8_bits_is_ow(tmp_path: Path) -> None:
    store = Store(tmp_path)
    source = image(noise(1, 20, 30))
    source.compress(RLELossless)
    series = store.prepare([store.add(part10(source))])
    reader = store.open(series)
    pieces = reader.part10(uids(series)[0], EXPLICIT, decode=lambda data, _: decode_native(data))
    native = pydicom.dcmread(io.BytesIO(b"".join(pieces)))
    assert native["PixelData"].VR == "OW"
    assert np.array_equal(native.pixel_array, source.pixel_array)
    assert native.file_meta.TransferSyntaxUID == EXPLICIT


def decode_native(data: bytes) -> bytes:
    return htj2k.decode_frame(data).tobytes()


def test_a_later_version_is_refused(world: tuple) -> None:
    def later(data: bytearray) -> bytearray:
        data[-8] = 3
        return data

    with pytest.raises(PackCorrupt, match="version 3"):
        damaged(*world[:2], "pack", later)


def test_joined_crc() -> None:
    pieces = [b"", b"a", bytes(1000), b"xyz" * 70_001, b""]
    expected = zlib.crc32(b"".join(pieces)), sum(map(len, pieces))
    assert pack_format.joined_crc32([(zlib.crc32(p), len(p)) for p in pieces]) == expected


def test_the_index_is_compact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    series = store.prepare([store.add(part10(image(noise(400, 8, 8, bits=8))))])
    independent = pack_reader.PackFile(store.web.read(series.pack_path))
    assert series.pack_bytes - independent.low_length - independent.rest < 400 * 400
    assert len(independent.table) == 400
