"""Whether an instance is a frontal chest radiograph of an adult, as far as its header tells.

The model was trained on such films only. Everything else stays on the worklist in arrival order with the reason that is
given here, so every reason is a sentence for a person. Doubt is settled for the patient: what is probably a frontal
chest film is read, as a model can only bring a study forward.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass

from storage.names import fold
from storage.studies import InstanceHeader

__all__ = ["EligibilityPolicy", "is_chest", "screen", "view_of"]

_READ = "only frontal chest radiographs are"
_MODALITIES = frozenset({"CR", "DX"})
_SOP_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"})  # CR; DX For Presentation
_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"  # DX For Processing
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame kin below it

# Folded words (no marks, lower case) of codes, English and Vietnamese. View Position: PS3.3 C.8.7.1.1.3, C.8.11.7.
_FRONTAL = re.compile(r"\b(pa|ap|frontal|front|postero ?anterior|antero ?posterior|supine|thang|truoc sau|sau truoc)\b")
_LATERAL = re.compile(
    r"\b(lateral|lat|ll|rl|lld|rld|oblique|obl|lao|rao|lpo|rpo|llo|rlo|decubitus|lordotic|nghieng|chech|dinh phoi)\b"
)
_CHEST = re.compile(r"\b(chest|cxr|thorax|torax|thoracic|lungs?|pulmonary|nguc|phoi|long nguc|tim phoi)\b")
_NOT_CHEST = re.compile(
    r"\b(spine|t ?spine|c ?spine|l ?spine|thoracolumbar|vertebrae?|ribs?|sternum|clavicle|scapula|shoulder|abdomen|kub"
    r"|cot song|xuong|suon|vai|bung)\b"
)
_NOTHING = frozenset({"", "unknown", "other", "none", "default", "na"})
_AGE = re.compile(r"(\d{3})([DWMY])")
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.44, "Y": 365.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class EligibilityPolicy:
    """Limits of what is read."""

    min_side_px: int = 256  # a smaller image is an icon or a thumbnail
    max_side_px: int = 12_000  # 288 MB of pixels; no detector is larger
    min_age_years: float = 16.0  # the model has seen adults only


_DEFAULT = EligibilityPolicy()


def screen(header: InstanceHeader, policy: EligibilityPolicy = _DEFAULT) -> str:
    """'' for a frontal chest radiograph, else the reason why no model reads the instance, for a person."""
    return (
        _screen_kind(header)
        or _screen_image(header, policy)
        or _screen_age(header, policy)
        or _screen_body_part(header)
        or _screen_view(header)
    )


def view_of(text: str) -> str:
    """'frontal', 'lateral' (or oblique), 'both' or '' as the words of a view, series or code meaning tell."""
    folded = fold(text)
    lateral = _LATERAL.search(folded) is not None
    if _FRONTAL.search(folded) is None:
        return "lateral" if lateral else ""
    return "both" if lateral else "frontal"


def _screen_kind(header: InstanceHeader) -> str:
    if header.sop_class == _FOR_PROCESSING:
        return "raw detector data (For Processing) is not read by the model: the image For Presentation is"
    if header.sop_class.startswith(_SECONDARY_CAPTURE):
        return f"a secondary capture is not read by the model: {_READ}"
    if header.modality not in _MODALITIES and (header.modality or header.sop_class not in _SOP_CLASSES):
        return f"{_line(header.modality) or 'an object without modality'} is not read by the model: {_READ}"
    if header.sop_class not in _SOP_CLASSES:
        return f"this kind of object is not read by the model: {_READ}"
    return ""


def _screen_image(header: InstanceHeader, policy: EligibilityPolicy) -> str:
    rows, columns = header.rows or 0, header.columns or 0
    size = f"{columns} x {rows} pixels"
    checks = (
        (min(rows, columns) < 1, "there is no image in it: 0 rows or columns"),
        (
            min(rows, columns) < policy.min_side_px,
            f"the image is too small to read: {size}, at least {policy.min_side_px} a side are needed",
        ),
        (
            max(rows, columns) > policy.max_side_px,
            f"the image is too large to read: {size}, at most {policy.max_side_px} a side are taken",
        ),
        ((header.frames or 1) > 1, f"it has {header.frames} frames: only single images are read"),
        (
            header.photometric not in ("MONOCHROME1", "MONOCHROME2"),
            f"it is not a grey image: {_line(header.photometric) or 'no photometric interpretation'}",
        ),
        (
            header.bits_allocated not in (None, 8, 16),
            f"{header.bits_allocated} bits a pixel cannot be read: 8 to 16 can",
        ),
    )
    return next((reason for fails, reason in checks if fails), "")


def _screen_age(header: InstanceHeader, policy: EligibilityPolicy) -> str:
    years = _age_years(header)
    if years is None or years >= policy.min_age_years:
        return ""
    return f"the patient is under {policy.min_age_years:g} years old: the model knows adults only"


def _age_years(header: InstanceHeader) -> float | None:
    """From birth date and study date, else from Patient's Age (nnnD, nnnW, nnnM, nnnY; PS3.5 6.2)."""
    born, taken = header.patient_birth_date, header.study_date or header.acquisition_date
    if born and taken and dt.date(1880, 1, 1) < born <= taken:
        return (taken - born).days / _DAYS["Y"]
    match = _AGE.fullmatch(header.patient_age.strip().upper())
    return int(match[1]) * _DAYS[match[2]] / _DAYS["Y"] if match else None


def _screen_body_part(header: InstanceHeader) -> str:
    coded = fold(header.body_part)
    if coded not in _NOTHING:
        return "" if is_chest(coded) else f"body part {_line(header.body_part)} is not read by the model: {_READ}"
    texts = [header.series_description, header.protocol_name, header.study_description]
    told = [fold(text) for text in texts if fold(text) not in _NOTHING]
    if any(is_chest(text) for text in told):
        return ""
    if told:
        return f"no body part is given, and nothing in the description says chest: {_READ}"
    return f"neither body part nor description is given: {_READ}"


def is_chest(folded: str) -> bool:
    """Whether folded words (`storage.names.fold`) name the chest, and no part of it that is taken by itself."""
    return _CHEST.search(folded) is not None and _NOT_CHEST.search(folded) is None


def _screen_view(header: InstanceHeader) -> str:
    """View Position decides; without one the words of the series, then those of the study."""
    for source, text in (
        ("view position", header.view_position),
        ("the description", f"{header.series_description} {header.protocol_name}"),
        ("the description", header.study_description),
    ):
        view = view_of(text)
        if view == "frontal":
            return ""
        if view == "lateral":
            return f"lateral or oblique view ({source}: {_line(text)}): {_READ}"
        if view == "both":
            return f"frontal or lateral cannot be told ({source}: {_line(text)}): {_READ}"
    return ""


def _line(text: str) -> str:
    return " ".join(text.split())
