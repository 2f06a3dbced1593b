"""Where a model saw something, for viewers: a presentation state over the film, and a picture where there is none."""

from __future__ import annotations

from typing import Final

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import JPEGBaseline8Bit

from inference.report import NOT_FOR_DIAGNOSIS, Analysis, Found, common, finished, tracking_uid

__all__ = ["presentation_state", "secondary_capture"]

_LAYER: Final = "SANGLOC"


def presentation_state(image: Dataset, analysis: Analysis) -> Dataset:
    """The grey image as it is stored, with a box and a label for each finding that has a region (PS3.3 A.33.1).

    Raises `ValueError` where no finding has a region.
    """
    marked = [found for found in analysis.findings if found.region is not None]
    if not marked:
        raise ValueError("no finding has a region")
    layer = hd.pr.GraphicLayer(_LAYER, order=1, description=f"{analysis.model_name}: {NOT_FOR_DIAGNOSIS[0].lower()}")
    annotation = hd.pr.GraphicAnnotation(
        referenced_images=[image],
        graphic_layer=layer,
        graphic_objects=[_box(image, analysis, found) for found in marked],
        text_objects=[_label(image, analysis, found) for found in marked],
    )
    inverse = image.PhotometricInterpretation == "MONOCHROME1"  # which a presentation state overrides (PS3.4 N.2.4)
    shape = hd.PresentationLUTShapeValues.INVERSE if inverse else hd.PresentationLUTShapeValues.IDENTITY
    made = hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        content_label=_LAYER,
        content_description=f"{analysis.model_name} marks, {NOT_FOR_DIAGNOSIS[0].lower()}"[:64],
        graphic_layers=[layer],
        graphic_annotations=[annotation],
        presentation_lut_transformation=hd.PresentationLUTTransformation(presentation_lut_shape=shape),
        **common("pr", image, analysis),
    )
    return finished(made, image, analysis)


def _box(image: Dataset, analysis: Analysis, found: Found) -> hd.pr.GraphicObject:
    assert found.region is not None
    return hd.pr.GraphicObject(
        graphic_type=hd.pr.GraphicTypeValues.POLYLINE,
        graphic_data=found.region.corners(image.Rows, image.Columns),
        units=hd.pr.AnnotationUnitsValues.PIXEL,
        tracking_id=f"{analysis.model_name} {found.term.english}",
        tracking_uid=tracking_uid(analysis, found.name),
    )


def _label(image: Dataset, analysis: Analysis, found: Found) -> hd.pr.TextObject:
    assert found.region is not None
    (left, top), *_ = found.region.corners(image.Rows, image.Columns)
    words = found.term
    return hd.pr.TextObject(
        text_value=f"{words.english} / {words.vietnamese} {found.probability:.0%}\r\n{' / '.join(NOT_FOR_DIAGNOSIS)}",
        units=hd.pr.AnnotationUnitsValues.PIXEL,
        anchor_point=(float(left), float(top)),
        anchor_point_visible=False,
        tracking_id=f"{analysis.model_name} {words.english}",
        tracking_uid=tracking_uid(analysis, found.name),
    )


def secondary_capture(image: Dataset, analysis: Analysis, picture: npt.NDArray[np.uint8]) -> Dataset:
    """The picture [rows, columns, 3] (RGB) of `inference.overlay` as a Secondary Capture, JPEG baseline."""
    made = hd.sc.SCImage.from_ref_dataset(
        image,
        pixel_array=picture,
        photometric_interpretation=hd.PhotometricInterpretationValues.YBR_FULL_422,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "F"),
        transfer_syntax_uid=JPEGBaseline8Bit,
        **common("sc", image, analysis),
    )
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.DerivationDescription = (
        f"Map of {analysis.model_name} {analysis.model_version}, {NOT_FOR_DIAGNOSIS[0].lower()}"
    )
    made.BurnedInAnnotation = "NO"  # of who the patient is; what is burnt in says what the picture is
    made.SourceImageSequence = [_reference(image)]
    return finished(made, image, analysis)


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = purpose.value, "DCM", purpose.meaning
    item.PurposeOfReferenceCodeSequence = [code]
    return item
