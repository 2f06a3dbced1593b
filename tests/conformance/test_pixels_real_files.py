"""Real files in every common transfer syntax, from ../shared/dicom: an image or a reason, and the right image."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from inference.pixels import read_pixels
from storage.errors import NotScorable

CORPUS = Path(__file__).parents[3] / "shared" / "dicom"
FILES = (
    [row["file"] for row in csv.DictReader((CORPUS / "manifest.csv").read_text("utf-8").splitlines())]
    if CORPUS.is_dir()
    else []
)

pytestmark = [
    pytest.mark.skipif(not FILES, reason=f"{CORPUS} is not here"),
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore::UserWarning:pylibjpeg"),
]

# NEMA WG-04 images: the one to compare with, and the same image in other transfer syntaxes with the mean difference of
# grey levels (of 255) that is allowed: none but rounding where lossless.
_FAMILIES = {
    "cornerstonejs_dicomParser/CT1_UNC.explicit_big_endian.dcm": {
        "robyoung_dicom-test-files/CT1_JLSL": 0.0,
        "cornerstonejs_cornerstoneWADOImageLoader/CT1_J2KR": 0.0,
        "cornerstonejs_dicomParser/CT1_UNC.fragmented_bot_jpeg_ls.80.dcm": 0.0,
        "cornerstonejs_dicomParser/CT1_UNC.fragmented_no_bot_jpeg_ls.80.dcm": 0.0,
    },
    "robyoung_dicom-test-files/MR3_RLE": {
        "robyoung_dicom-test-files/MR3_J2KR": 0.0,
        "robyoung_dicom-test-files/MR3_JLSL": 0.0,
        "robyoung_dicom-test-files/MR3_JPLL": 0.0,
        "robyoung_dicom-test-files/MR3_JLSN": 2.0,
        "robyoung_dicom-test-files/MR3_JPLY": 3.0,
        "robyoung_dicom-test-files/MR3_J2KI": 8.0,  # coarse: the air around the head is cut to 0
    },
    "robyoung_dicom-test-files/RG3_JLSL": {
        "robyoung_dicom-test-files/RG3_JPLL": 0.0,
        "robyoung_dicom-test-files/RG3_JLSN": 2.0,
        "robyoung_dicom-test-files/RG3_JPLY": 2.0,
        "pydicom_pydicom-data/RG3_J2KI.dcm": 2.0,
    },
    "pydicom_pydicom/MR_small.dcm": {
        "pydicom_pydicom/MR_small_RLE.dcm": 0.0,
        "pydicom_pydicom/MR_small_bigendian.dcm": 0.0,
        "pydicom_pydicom/MR_small_expb.dcm": 0.0,
        "pydicom_pydicom/MR_small_implicit.dcm": 0.0,
        "pydicom_pydicom/MR_small_jp2klossless.dcm": 0.0,
        "pydicom_pydicom/MR_small_jpeg_ls_lossless.dcm": 0.0,
    },
    "cornerstonejs_cornerstoneWADOImageLoader/CTImage.dcm_RLELosslessTransferSyntax_1.2.840.10008.1.2.5.dcm": {
        f"cornerstonejs_cornerstoneWADOImageLoader/CTImage.dcm_{name}.dcm": allowed
        for name, allowed in {
            "DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99": 0.0,
            "JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90": 0.0,
            "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80": 0.0,
            "JPEGProcess14TransferSyntax_1.2.840.10008.1.2.4.57": 0.0,
            "JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70": 0.0,
            "JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81": 2.0,
            "JPEG2000TransferSyntax_1.2.840.10008.1.2.4.91": 2.0,
            "JPEGProcess2_4TransferSyntax_1.2.840.10008.1.2.4.51": 3.0,
        }.items()
    },
}


def read(name: str) -> npt.NDArray[np.uint8]:
    """The image of a file of the corpus, with or without preamble and file meta."""
    content = (CORPUS / name).read_bytes()
    offset, syntax = 0, "1.2.840.10008.1.2"
    if content[128:132] == b"DICM":
        meta = pydicom.filereader.read_file_meta_info(CORPUS / name)
        syntax = str(meta.get("TransferSyntaxUID", syntax))
        offset = 144 + int(meta.get("FileMetaInformationGroupLength", 0))
    return read_pixels(content, offset, syntax)


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_an_image_or_a_reason(name: str) -> None:
    try:
        image = read(name)
    except NotScorable as error:
        reason = str(error)
        assert 10 < len(reason) < 300
        return
    assert image.dtype == np.uint8
    assert max(image.shape) <= 512
    assert int(image.max()) > int(image.min())


@pytest.mark.parametrize(
    ("name", "like", "allowed"),
    [(name, like, allowed) for like, family in _FAMILIES.items() for name, allowed in family.items()],
)
def test_the_same_image_in_another_transfer_syntax_looks_the_same(name: str, like: str, allowed: float) -> None:
    image, expected = read(name).astype(int), read(like).astype(int)
    assert image.shape == expected.shape
    assert float(np.abs(image - expected).mean()) <= allowed


@pytest.mark.parametrize(
    "name",
    [
        "pydicom_pydicom-data/RG1_J2KI.dcm",
        "pydicom_pylibjpeg-data/966_fixed.dcm",
        "mlmed_torchxrayvision/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
    ],
)
def test_a_real_chest_film_shows_dark_lungs_beside_a_bright_middle(name: str) -> None:
    """MONOCHROME1 or 2, windowed or not: the spine is brighter than the lungs, as on every viewer."""
    image = read(name).astype(float)
    rows, columns = image.shape
    band = image[rows // 4 : rows // 2]
    middle = band[:, int(columns * 0.46) : int(columns * 0.54)].mean()
    lungs = [band[:, int(columns * left) : int(columns * (left + 0.1))].mean() for left in (0.25, 0.65)]
    assert middle > max(lungs)
