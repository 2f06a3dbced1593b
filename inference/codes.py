"""What findings are called: coded for DICOM, and in English and Vietnamese for people. The one table.

A code stands here only where it could be checked: in the DICOM context groups (PS3.16, by pydicom's dictionary) or, for
SNOMED CT, in several published code lists that agree. RadLex RIDs that circulate for chest findings contradict each
other, so none is used. What has no safe code, and names that a foreign model brings along, get a code of our private
scheme 99SANGLOC; receivers then still have its meaning.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["FINDINGS", "PRIVATE", "PRIVATE_UID", "Term", "term"]

PRIVATE: Final = "99SANGLOC"
PRIVATE_UID: Final = "2.25.240113128772080260794876869310454179411"
"""Coding Scheme UID (0008,010C) of the private scheme."""
_MAX_VALUE, _MAX_MEANING = 16, 64  # characters of SH and LO (PS3.5 6.2)


class Term(NamedTuple):
    """A coded concept (PS3.3 8.3) and its names for people."""

    value: str
    scheme: str  # SCT | DCM | 99SANGLOC
    meaning: str
    english: str
    vietnamese: str


def _sct(value: str, meaning: str, english: str, vietnamese: str) -> Term:
    return Term(value, "SCT", meaning, english, vietnamese)


FINDINGS: Final[dict[str, Term]] = {
    "abnormal": _sct("263654008", "Abnormal", "abnormal", "bất thường"),
    "atelectasis": _sct("46621007", "Atelectasis", "atelectasis", "xẹp phổi"),
    "cardiomegaly": _sct("8186001", "Cardiomegaly", "cardiomegaly", "bóng tim to"),
    "consolidation": _sct("95436008", "Lung consolidation", "consolidation", "đông đặc phổi"),
    "edema": _sct("19242006", "Pulmonary edema", "pulmonary edema", "phù phổi"),
    "effusion": _sct("60046008", "Pleural effusion", "pleural effusion", "tràn dịch màng phổi"),
    "emphysema": _sct("87433001", "Pulmonary emphysema", "emphysema", "khí phế thũng"),
    "fibrosis": _sct("51615001", "Fibrosis of lung", "fibrosis", "xơ phổi"),
    "fracture": _sct("125605004", "Fracture of bone", "fracture", "gãy xương"),
    "hernia": _sct("39839004", "Diaphragmatic hernia", "hernia", "thoát vị hoành"),
    "infiltration": Term("112121", "DCM", "Infiltrate", "infiltration", "thâm nhiễm"),
    "lung opacity": Term("112001", "DCM", "Opacity", "lung opacity", "đám mờ phổi"),
    "mass": _sct("4147007", "Mass", "mass", "khối mờ"),
    "nodule": _sct("27925004", "Nodule", "nodule", "nốt mờ"),
    "pleural thickening": Term("PLEURAL-THICK", PRIVATE, "Pleural thickening", "pleural thickening", "dày màng phổi"),
    "pneumonia": _sct("233604007", "Pneumonia", "pneumonia", "viêm phổi"),
    "pneumothorax": _sct("36118008", "Pneumothorax", "pneumothorax", "tràn khí màng phổi"),
    "tuberculosis": _sct("154283005", "Pulmonary tuberculosis", "tuberculosis", "lao phổi"),
    "covid-19": _sct("840539006", "COVID-19", "COVID-19", "COVID-19"),
    "enlarged cardiomediastinum": Term(
        "WIDE-MEDIASTINUM", PRIVATE, "Enlarged cardiomediastinum", "enlarged cardiomediastinum", "trung thất rộng"
    ),
    "lung lesion": Term("LUNG-LESION", PRIVATE, "Lung lesion", "lung lesion", "tổn thương phổi"),
}
_SAME: Final = {
    "covid": "covid-19",
    "opacity": "lung opacity",
    "pleural effusion": "effusion",
    "pulmonary edema": "edema",
    "pulmonary fibrosis": "fibrosis",
}


def term(name: str) -> Term:
    """The term of a finding as a model's labels name it; one of the private scheme where the table has none."""
    plain = " ".join(name.replace("_", " ").split()).lower()
    found = FINDINGS.get(_SAME.get(plain, plain))
    if found is not None:
        return found
    value = "".join(c if c.isascii() and c.isalnum() else "-" for c in plain.upper())[:_MAX_VALUE].strip("-")
    meaning = plain[:_MAX_MEANING].strip() or "unnamed finding"
    return Term(value or "UNNAMED", PRIVATE, meaning, meaning, meaning)
