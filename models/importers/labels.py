"""What others call their findings, in our names, and the heads of published checkpoints that name none."""

from __future__ import annotations

from collections.abc import Sequence

from models.data import ABNORMAL

__all__ = ["CHEXNET", "TORCHXRAYVISION", "ours"]

# The 14 of ChestX-ray14 in the order of the public CheXNet reproductions (arnoweng, zoogzog).
CHEXNET = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
# torchxrayvision's own order, of all its DenseNets.
TORCHXRAYVISION = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis", "Effusion",
    "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung_Lesion", "Fracture",
    "Lung_Opacity", "Enlarged_Cardiomediastinum",
)  # fmt: skip
NO_FINDING = "No Finding"

_KNOWN = {name.lower(): name for name in (*CHEXNET, *TORCHXRAYVISION, ABNORMAL, "Tuberculosis", "COVID-19")}
_SAME = {
    "pleural_effusion": "Effusion",
    "pulmonary_edema": "Edema",
    "pulmonary_fibrosis": "Fibrosis",
    "pulmonary_emphysema": "Emphysema",
    "opacity": "Lung_Opacity",
    "airspace_opacity": "Lung_Opacity",
    "pleural_thicken": "Pleural_Thickening",
    "covid": "COVID-19",
    "covid19": "COVID-19",
    "tb": "Tuberculosis",
    "no_finding": NO_FINDING,
    "normal": NO_FINDING,
}


def ours(labels: Sequence[str]) -> tuple[str, ...]:
    """Our names for labels, in their order; an unknown one keeps its own, without spaces. '' stays ''."""
    return tuple(map(_ours, labels))


def _ours(label: str) -> str:
    plain = "_".join(label.replace("_", " ").split())
    key = plain.lower()
    return _SAME.get(key) or _KNOWN.get(key) or plain
