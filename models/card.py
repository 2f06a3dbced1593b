"""The model card of a bundle, `docs/README.md`, written from its metadata and an evaluation report.

Every figure in a card comes from a `Report`; the prose says what a figure cannot.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.ablation import Row, read_rows
from models.bundle import METADATA, load_bundle
from models.calibration import OPERATING_POINTS
from models.data import ABNORMAL, TRAITS
from models.evaluation import Figure, Report
from models.lesions import LESIONS
from models.recipe import FOLDS

__all__ = ["write_card"]

# source -> (what it is, licence of the images)
_SOURCES = {
    "nih": ("ChestX-ray14, NIH Clinical Center, both classes", "NIH terms: free use with attribution"),
    "rsna_normal": (
        "normals read by radiologists for the RSNA Pneumonia Challenge 2018 (NIH films)",
        "RSNA challenge terms: non-commercial, research and education",
    ),
    "tb_rahman": ("Tuberculosis Chest X-ray Database (Rahman 2020)", "data files: their original authors"),
    "covid_radiography": (
        "COVID-19 Radiography Database (BIMCV, MHH, SIRM and others)",
        "data files: their original authors",
    ),
    "ieee8023": ("COVID-19 image data collection, published cases", "by film: CC BY-NC-SA, CC BY and others"),
    "hannover": ("COVID-19 Image Repository, Hannover Medical School", "CC BY 3.0"),
    "figure1": ("Figure 1 COVID-19 chest X-ray data set", "research use"),
    "tb_pakistan": ("normal and tuberculosis films from Pakistan", "CC BY 4.0 as far as known"),
}

_USE = """\
Research use. **Not a medical device.** It sorts a queue of frontal chest radiographs of adults: a flagged study is read
sooner. It rules nothing out."""

_STEPS = """\
Abnormal by the best label, on films that the network was not fitted on; 95 % intervals by bootstrap of patients, gains
paired. Networks that left the same fold of train out, and the mean of such, are compared on val and on that fold; what
was fitted on all films, on val alone. `sources` is `plain` with the sources made alike: appearance, sampling, believed
labels; `first` is more epochs of it, version 0.1.0; `mixup`, `traits` and `drawn` each add one step to `sources`; `all`
has the three; `member` is `traits` with the epochs of `first`, each row another seed. The lines that make the runs and
this table (`sangloc compare`) are in docs/models.md."""

_AIM = """\
A network from a random start on about nine hundred NIH films with both classes does not see what a DenseNet121 with
pre-trained weights learnt from 78,000: it tells films with plain opacities (what radiologists call abnormal), not the
small nodules, scars and plates of atelectasis that the reports name on the films that no radiologist has read again."""

_TRIED = """\
Tried on val and the fold left out, and not kept: Abnormal as one less the product of the findings' complements, as
their mean or their greatest (all lower than Abnormal's own output). Not tried for want of machine time (two cores,
shared, at idle priority): self-supervised pre-training, a crop to the lung fields, a source adversary beside the
balanced sampling, inputs above 192 px, wider networks."""

_LIMITS = """\
- **Source is confounded with label.** All tuberculosis and COVID-19 films are abnormal and come from sources without
  normals; thumbnails of 16 x 16 pixels already tell them from normals. Figures over all sources, and sensitivities on
  single-class sources, say little about disease. Trust the rows of `nih`. For the same reason there is no output
  "Tuberculosis" or "COVID-19": it would be a detector of the source.
- A source that is confounded inside itself (`tb_pakistan`) can be read for sensitivity and specificity only.
- NIH labels are mined from reports: radiologists call 30 % of the films with a mined finding normal, and of 62 films
  without one 35 abnormal. The better label ("best") is the radiologist's where one exists.
- Probabilities are calibrated on NIH validation films, of which more than half are abnormal. At a site with fewer
  abnormal films the true frequencies are lower than the probabilities say.
- Thresholds do not travel. They were chosen on NIH films; compare the specificity on films from elsewhere
  (`tb_pakistan`, split `external`) with that on `nih`: films from other places looked abnormal in training, whatever
  they showed. Choose thresholds on films of the site before relying on the order of a list.
- Rare findings (few positive validation films) have thresholds chosen by specificity alone; read them as hints.
- Small pneumothoraces, nodules and fractures are not seen reliably at this input size. No lateral films, no children.
- No film from Viet Nam, few film makers, images of at most 1024 px squeezed to squares by their publishers.
- A model only ever brings a study forward. A film without a flag has not been called normal."""


def write_card(bundle: Path, report: Report, command: str) -> Path:
    """Write `docs/README.md` and `docs/evaluation.json` into the bundle; `command` is what reproduces the figures.

    Raises:
        InvalidBundle: the folder is no bundle.
        ValueError: the report is about other weights.
    """
    model = load_bundle(bundle)
    if report.weights_sha256 != model.weights_sha256:
        raise ValueError(f"the report is about other weights ({report.weights_sha256[:16]})")
    ours = json.loads((bundle / METADATA).read_text("utf-8"))["sangloc"]
    parts = [
        f"# {model.name} {model.version}",
        _USE,
        f"Weights: `models/model.pt`, SHA-256 `{model.weights_sha256}`.",
        "## How it was made\n\n" + _making(ours["training"]) + "\n\n" + _calibration(ours),
        *_steps(read_rows(bundle)),
        *_choice(bundle / "docs" / "choice.md"),
        "## Data\n\n" + _sources(ours["training"]["sources"]),
        *_aim(report),
        "## Figures\n\n" + _figures(report, command),
        "## Limits\n\n" + _LIMITS,
    ]
    folder = bundle / "docs"
    folder.mkdir(exist_ok=True)
    (folder / "evaluation.json").write_text(report.to_json() + "\n", "utf-8")
    card = folder / "README.md"
    card.write_text("\n\n".join(parts) + "\n", "utf-8")
    return card


def _making(training: dict[str, Any]) -> str:
    config = training["config"]
    stages = ", then ".join(f"{epochs} epochs at {size} px" for epochs, size in config["stages"])
    network = config["network"]
    shape = ", ".join(f"{key} {value}" for key, value in network.items() if not key.startswith("_"))
    return (
        f"MONAI `{network['_target_'].rpartition('.')[2]}` ({shape}), trained by `sangloc train` on"
        f" {training['films']:,} films ({training['abnormal']:,} abnormal) of split `train`: {stages}, an epoch being"
        f" {config['epoch_films']:,} films drawn with shares by source and label; AdamW, one cycle up to"
        f" {config['learning_rate']}, weight decay {config['weight_decay']}, bfloat16, running average of the weights"
        f" ({config['ema']}), seed {config['seed']}; {training.get('wall_hours', 0):.2f} hours of wall time, finished"
        f" {training['finished']}. A finding's loss counts only where somebody looked for it.\n\n" + _recipe(config)
    )


def _recipe(config: dict[str, Any]) -> str:
    """A line for each step of training that was switched on."""
    fold, teachers = config.get("fold"), config.get("teachers", ())
    steps = {
        "Labels are softened by how far they are believed.": config.get("soften", True),
        "Augmentation makes the sources alike: position, size, aspect, exposure, blur, noise, JPEG, boxes.":
            config.get("alike", True),
        f"Mixup: two films and their labels blended, Beta({config.get('mixup')}).": config.get("mixup"),
        f"Helper outputs that the bundle does not keep, weight {config.get('traits')}: {', '.join(TRAITS)}.":
            config.get("traits"),
        f"A lesion drawn by code on {config.get('drawn', 0):.0%} of the normal films: {', '.join(LESIONS)}.":
            config.get("drawn"),
        f"Fold {fold} of {FOLDS} of the films was left out.": fold is not None,
        "It began with random weights.": not config.get("start"),
        f"It began with the weights `{config.get('start', '')[:12]}`.": config.get("start"),
        f"Distilled (weight {config.get('distil')}) from the mean logit of {len(teachers)} networks:"
        f" {', '.join(f'`{digest[:12]}`' for digest in teachers)}.": teachers,
    }  # fmt: skip
    return "\n".join(f"- {step}" for step, on in steps.items() if on)


def _steps(rows: Sequence[Row]) -> list[str]:
    """What each step of training brought, where the bundle keeps that."""
    if not rows:
        return []
    head = ["recipe", "networks", "wall hours", "AUROC, val", "AUROC, val and the fold left out",
            f"gain over {rows[0].step}"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [
        f"| {row.step} | {row.nets} | {row.hours:.2f} | {_range(row.val)} | {_range(row.held) if row.held else ''} |"
        f" {_range(row.gain)} |"
        for row in rows
    ]
    return ["## What each step brought\n\n" + _STEPS + "\n\n" + "\n".join(lines), _TRIED]


def _choice(file: Path) -> list[str]:
    """Why these weights ship: the only prose of a card that a person writes for one bundle."""
    return ["## Why these weights\n\n" + file.read_text("utf-8").strip()] if file.exists() else []


def _aim(report: Report) -> list[str]:
    """How the bundle stands beside the reference, where the report has one."""
    beside = {(f.labels, f.measure): f for f in report.figures if f.source == "films of reference"}
    lines = []
    for labels in dict.fromkeys(labels for labels, _ in beside):
        ours, theirs = beside[labels, "AUROC"], beside[labels, "AUROC of reference"]
        short = theirs.low - ours.value
        said = f"**{short:.3f} below that interval**" if short > 0 else "inside that interval"
        lines.append(
            f"- labels `{labels}`, {ours.films} films: the reference {_cell(theirs)}, ours {_cell(ours)}, {said}."
        )
    if not lines:
        return []
    head = "The aim was the AUROC of the reference for Abnormal on its films, inside its 95 % interval:"
    reason = ["\n\n" + _AIM] if any("below" in line for line in lines) else []
    return ["## Aim\n\n" + head + "\n\n" + "\n".join(lines) + "".join(reason)]


def _range(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def _calibration(ours: dict[str, Any]) -> str:
    on, names = ours["calibrated_on"], ours["operating_points"]
    lines = [f"- `{name}`: {OPERATING_POINTS[name]}; Abnormal at {names[name][0]:.3f}" for name in names]
    return (
        f"Calibration (Platt, each finding by itself) and thresholds were chosen on split `val`, sources"
        f" {', '.join(on['sources'])}: {on['films'][0]} films, {on['positives'][0]} abnormal. Operating points,"
        f" of which `{ours['operating_point']}` is the default:\n\n" + "\n".join(lines)
    )


def _sources(names: Sequence[str]) -> str:
    lines = [f"| {name} | {' | '.join(_SOURCES.get(name, ('', '')))} |" for name in names]
    return "\n".join(["| source of training films | what | licence of the images |", "|---|---|---|", *lines]) + (
        "\n\nNo image is in this repository."
    )


def _figures(report: Report, command: str) -> str:
    intro = (
        f"Operating point `{report.operating_point}`, Abnormal at {report.threshold:.3f}; 95 % intervals from"
        f" {report.resamples:,} bootstrap resamples of patients or groups. Reproduce with `{command}`."
    )
    if any(figure.source == "films of reference" for figure in report.figures):
        intro += (
            " `films of reference` are those that the model behind `--reference` has scored too (`chexnet_preds.csv` is"
            " of a public CheXNet reproduction from about 78,000 NIH films); `difference` is ours less its AUROC."
        )
    parts = [intro]
    for split in report.splits:
        figures = [figure for figure in report.figures if figure.split == split]
        first = [figure for figure in figures if figure.finding == ABNORMAL]
        whole = [figure for figure in first if not figure.group and not figure.point]
        parts += [_table(f"### Split {split}: {ABNORMAL}", whole)]
        for title, some in (
            ("operating points", [figure for figure in first if figure.point]),
            ("groups of patients", [figure for figure in first if figure.group]),
        ):
            parts += [_table(f"### Split {split}: {title}", some)] if some else []
        others = [figure for figure in figures if figure.finding != ABNORMAL]
        parts += [_table(f"### Split {split}: findings", others)]
        chance = sorted({f.finding for f in others if f.measure == "AUROC" and f.low <= 0.5})
        if chance:
            parts += [f"**Not shown to be better than chance** (the interval holds 0.5): {', '.join(chance)}."]
    return "\n\n".join(parts)


def _table(title: str, figures: Sequence[Figure]) -> str:
    """One row for each (source, labels, what it is about), one column for each measure."""
    measures = list(dict.fromkeys(figure.measure for figure in figures))
    rows: dict[tuple[str, str, str, str], dict[str, Figure]] = {}
    for f in figures:
        what = f.point or f.group or f.finding
        rows.setdefault((f.source, f.labels, what, f"{f.films} / {f.positives}"), {})[f.measure] = f
    kind = "point" if any(f.point for f in figures) else "group" if any(f.group for f in figures) else "finding"
    head = ["source", "labels", kind, "films / positive", *measures]
    lines = [title, "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join([*key, *(_cell(row.get(name)) for name in measures)])} |" for key, row in rows.items()]
    return "\n".join(lines) if figures else f"{title}\n\nToo few films."


def _cell(figure: Figure | None) -> str:
    return "" if figure is None else _range((figure.value, figure.low, figure.high))
