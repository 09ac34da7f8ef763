"""Accept headers to representations: one table, after PS3.18 section 8.7 and what viewers send."""

from __future__ import annotations

import pytest

from raypacs.web.negotiate import (
    accepts_gzip,
    choose_frame,
    choose_instance,
    choose_plain,
    parse_accept,
)

HT = "1.2.840.10008.1.2.4.202"
HT_ANY = "1.2.840.10008.1.2.4.201"
LE = "1.2.840.10008.1.2.1"
JPEG = "1.2.840.10008.1.2.4.50"
OCTETS = "application/octet-stream"


def mp(kind: str, syntax: str = "") -> str:
    return f'multipart/related; type="{kind}"' + (f"; transfer-syntax={syntax}" if syntax else "")


# Accept, form, media type, transfer syntax, multipart
PREPARED = [
    ("", "native", OCTETS, LE, True),
    ("*/*", "native", OCTETS, LE, True),
    (mp(OCTETS), "native", OCTETS, LE, True),
    (mp(OCTETS, LE), "native", OCTETS, LE, True),
    (mp(OCTETS, "*"), "stored", "image/jphc", HT, True),
    (f"multipart/related; type={OCTETS}; transfer-syntax=*", "stored", "image/jphc", HT, True),
    (mp("image/jphc"), "stored", "image/jphc", HT, True),
    (mp("image/jphc", HT), "stored", "image/jphc", HT, True),
    (mp("image/jphc", HT_ANY), "stored", "image/jphc", HT_ANY, True),
    (mp("image/jph"), "stored", "image/jphc", HT, True),
    ("image/jphc", "stored", "image/jphc", HT, False),
    ("image/jph", "stored", "image/jphc", HT, False),
    (OCTETS, "native", OCTETS, LE, False),
    (f"{OCTETS}; transfer-syntax=*", "stored", "image/jphc", HT, False),
    (f"{mp('image/jls')}, {mp(OCTETS)};q=0.5", "native", OCTETS, LE, True),
    (f"{mp(OCTETS)};q=0.1, {mp('image/jphc')};q=0.9", "stored", "image/jphc", HT, True),
    ("multipart/related", "native", OCTETS, LE, True),
    ("image/*", "stored", "image/jphc", HT, False),
]


@pytest.mark.parametrize(("accept", "form", "media", "syntax", "multipart"), PREPARED)
def test_prepared_frame(accept: str, form: str, media: str, syntax: str, multipart: bool) -> None:
    choice = choose_frame(accept, HT, LE, True)
    assert choice is not None
    assert (choice.form, choice.media_type) == (form, media)
    assert (choice.transfer_syntax_uid, choice.multipart) == (syntax, multipart)


@pytest.mark.parametrize(
    "accept",
    [
        mp("image/jls"),
        mp("image/jphc", JPEG),
        mp(OCTETS, JPEG),
        "text/html",
        f"{mp(OCTETS)};q=0",
        "application/dicom",
    ],
)
def test_prepared_frame_not_acceptable(accept: str) -> None:
    assert choose_frame(accept, HT, LE, True) is None


def test_copied_frames_come_as_received_or_decoded() -> None:
    as_it_is = choose_frame(mp(OCTETS, "*"), JPEG, JPEG, True)
    assert as_it_is is not None
    assert (as_it_is.form, as_it_is.media_type) == ("stored", "image/jpeg")
    decoded = choose_frame(mp(OCTETS), JPEG, JPEG, True)
    assert decoded is not None
    assert decoded.form == "native"
    assert choose_frame(mp(OCTETS), JPEG, JPEG, False) is None
    # "Anything" is still something when it cannot be decoded.
    anything = choose_frame("*/*", JPEG, JPEG, False)
    assert anything is not None
    assert anything.media_type == "image/jpeg"


def test_not_prepared_yet() -> None:
    assert choose_frame(mp("image/jphc"), "", LE, True) is None
    original = choose_frame(mp("image/jpeg"), "", JPEG, True)
    assert original is not None
    assert original.form == "original"
    star = choose_frame(mp(OCTETS, "*"), "", LE, True)
    assert star is not None
    assert star.form == "native"


@pytest.mark.parametrize(
    ("accept", "form", "syntax", "multipart"),
    [
        ("", "native", LE, True),
        (mp("application/dicom"), "native", LE, True),
        (mp("application/dicom", "*"), "original", LE, True),
        (mp("application/dicom", HT), "stored", HT, True),
        (mp("application/dicom", HT_ANY), "stored", HT_ANY, True),
        ("application/dicom", "native", LE, False),
        ("application/dicom; transfer-syntax=*", "original", LE, False),
    ],
)
def test_instance(accept: str, form: str, syntax: str, multipart: bool) -> None:
    choice = choose_instance(accept, HT, LE, True)
    assert choice is not None
    assert (choice.form, choice.transfer_syntax_uid, choice.multipart) == (form, syntax, multipart)


def test_instance_that_cannot_be_decoded_is_sent_as_it_is_unless_asked_otherwise() -> None:
    video = "1.2.840.10008.1.2.4.102"
    choice = choose_instance(mp("application/dicom"), video, video, False)
    assert choice is not None
    assert choice.transfer_syntax_uid == video
    assert choose_instance(mp("application/dicom", LE), video, video, False) is None
    assert choose_instance(mp("application/dicom", HT), video, video, False) is None


def test_quoted_commas_and_quality() -> None:
    ranges = parse_accept('a/b; x="1,2;3"; q=0.2, c/d;q=0.7, e/f;q=oops')
    assert [r.media_type for r in ranges] == ["c/d", "a/b"]
    assert ranges[1].param("x") == "1,2;3"


def test_plain_and_gzip() -> None:
    assert choose_plain("", ("image/jpeg", "image/png")) == "image/jpeg"
    assert choose_plain("image/png, */*;q=0.1", ("image/jpeg", "image/png")) == "image/png"
    assert choose_plain("text/html", ("image/jpeg",)) is None
    assert accepts_gzip("gzip, deflate, br")
    assert not accepts_gzip("")
    assert not accepts_gzip("gzip;q=0, br")
