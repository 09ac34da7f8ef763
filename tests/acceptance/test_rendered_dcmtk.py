"""Pictures beside dcmtk's dcmj2pnm: the same 8 bits within one grey level, file by file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pydicom
import pytest
from conftest import SHARED_DATA
from PIL import Image
from web_world import World, served

SAMPLES = SHARED_DATA / "dicom"
FILES = (
    "cr_fuji_rg3/RG3_UNCR.dcm",
    "ct_ge_lightspeed_human_lung/1-035.dcm",
    "ct_one_image_16_syntaxes/CTImage.dcm",
    "ct_philips_ingenuity_phantom/exam_summary/I10.dcm",
    "ct_philips_ingenuity_phantom/exam_summary/I30.dcm",
    "dicomdir_fileset/6154.dcm",
    "dx_small/dx_image.dcm",
    "examples/examples_overlay.dcm",
    "lut_and_overlay/mlut_18.dcm",
    "lut_and_overlay/vlut_04.dcm",
    "mg_ge_senographe/GH133.dcm",
    "misc_pydicom/ExplVR_BigEnd.dcm",
    "mr_ge_fmri/axial_epi_fmri_interleaved_i_to_s-00001.dcm",
    "mr_pydicom_data/MR-SIEMENS-DICOM-WithOverlays.dcm",
    "pet_acrin_flt/1.dcm",
    "pm_adc_maps/000000.dcm",
    "rtimage_epid/DRMLC_open.dcm",
    "sc_rgb_variants/SC_rgb_16bit.dcm",
    "sc_rgb_variants/SC_rgb_dcmtk_+eb+cy+np.dcm",
    "sc_rgb_variants/color-pl.dcm",
    "seg_liver/liver.dcm",
    "us_colour_multiframe/examples_palette.dcm",
    "us_colour_multiframe/examples_ybr_color.dcm",
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


def options(header: pydicom.Dataset) -> list[str]:
    """The VOI transform that is the default here: first table, first window, or all there is."""
    if header.get("VOILUTSequence"):
        return ["+Wl", "1"]
    groups = header.get("PerFrameFunctionalGroupsSequence")
    framed = groups[0].get("FrameVOILUTSequence") if groups else None
    if framed or header.get("WindowWidth"):
        return ["+Wi", "1"]
    return ["+Wm"] if header.PhotometricInterpretation.startswith("MONO") else []


@pytest.mark.parametrize("name", FILES)
def test_pictures_agree_with_dcmtk(
    name: str, peer: Callable[[str], str], world: World, tmp_path: Path
) -> None:
    source = SAMPLES / name
    if not source.is_file():
        pytest.skip("no ../shared/data beside the project")
    header = pydicom.dcmread(source, stop_before_pixels=True)
    out = tmp_path / "dcmtk.pnm"
    # -O: without overlays; +op: PNM of 8 bits.
    command = [peer("dcmj2pnm"), "-O", *options(header), "+op", str(source), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with Image.open(out) as opened:
        theirs = np.asarray(opened.convert("RGB")).astype(int)
    world.add(source.read_bytes())
    url = (
        f"/dicom-web/studies/{header.StudyInstanceUID}/series/{header.SeriesInstanceUID}"
        f"/instances/{header.SOPInstanceUID}/rendered"
    )
    shown = [_shown(world, url)]
    world.prepare()
    shown.append(_shown(world, url))
    for ours in shown:
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1


def _shown(world: World, url: str) -> np.ndarray:
    with served(world) as client:
        answer: httpx.Response = client.get(url, headers={"Accept": "image/png"}, timeout=60)
    assert answer.status_code == 200, answer.text
    image = imagecodecs.png_decode(answer.content).astype(int)
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
