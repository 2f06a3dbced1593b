"""The card of an input gate: how it was made, its figures, its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.bundle import METADATA
from models.gate import load_gate
from models.gate_evaluation import COUNTED, GateReport, Row

__all__ = ["write_gate_card"]

_USE = """\
Research use. **Not a medical device.** It keeps from a model for frontal chest radiographs of adults what that model
does not know, and puts right what came turned or inverted. What it refuses stays on the worklist in arrival order,
with the reason."""

_HOW = """\
A film is shown to the network as a square of 64 px; one that is surely upright and right in black and white is judged
at once. Otherwise all eight turned and inverted versions are shown to it, each votes for how the film came, and the
mean of their log-probabilities decides. The film is put right where that is sure, and refused where nothing is.
Beside the network stands what 40 principal components of chest films at 32 px leave over (a share of the variance),
and before both stand rules for blank, saturated, underexposed and noisy images and for those with hardly any grey
levels."""

_LIMITS = """\
- **Lateral films are not recognised by their pixels.** There is no lateral film in the training data; the header's
  view (View Position, View Code, words of the description) keeps them out. The drawn lateral phantom among the
  drawings is no measure of real ones.
- "Not a chest" was learned from drawings and from chest films that were taken apart. What it does with real
  radiographs of other body parts is known from a handful of public test files only ("real images of other things").
- Children: those of 1 to 5 years come from one hospital (source `kermany`) that sent no adults, so their figure may
  partly be the hospital's. The older ones are from the same hospital as the adults (`nih`): that figure is honest,
  and it shows that adolescents are not told from adults. The header's age (`inference.eligibility`) is what counts.
- Turned, inverted and cropped films were made by code from good ones; the share of each kind at a site is unknown.
- The sources are not clean. The gate itself found an upside-down film in split `val` and, after the weights were
  fitted, one upside down and one on its side in split `train` (of 3,824), half chests, and films of children among the
  adults of `covid_radiography`, which the thresholds count as good films.
- A mirrored film (left and right exchanged) is not noticed. The model is trained on mirrored films too.
- Sources of the good films: see the model's card. No film from Viet Nam."""


def write_gate_card(bundle: Path, report: GateReport, command: str) -> Path:
    """Write `docs/README.md` and `docs/evaluation.json` into the bundle; `command` is what reproduces the figures.

    Raises:
        InvalidBundle: the folder is no gate.
        ValueError: the report is about other weights.
    """
    gate = load_gate(bundle)
    if report.weights_sha256 != gate.weights_sha256:
        raise ValueError(f"the report is about other weights ({report.weights_sha256[:16]})")
    ours = json.loads((bundle / METADATA).read_text("utf-8"))["sangloc"]
    parts = [
        f"# {gate.name} {gate.version}",
        _USE,
        f"What runs: `models/gate.npz`, SHA-256 `{gate.weights_sha256}`; `models/model.pt` is the network for MONAI.",
        "## How it works\n\n" + _HOW,
        "## How it was made\n\n" + _making(ours),
        "## Figures\n\n" + _figures(report, command),
        "## Limits\n\n" + _LIMITS,
    ]
    folder = bundle / "docs"
    folder.mkdir(exist_ok=True)
    (folder / "evaluation.json").write_text(report.to_json() + "\n", "utf-8")
    card = folder / "README.md"
    card.write_text("\n\n".join(parts) + "\n", "utf-8")
    return card


def _making(ours: dict[str, Any]) -> str:
    training, limits = ours["training"], ours["gate"]["thresholds"]
    config = training["config"]
    network = config["network"]
    shape = ", ".join(f"{key} {value}" for key, value in network.items() if not key.startswith("_"))
    views = config["steps"] * config["batch"]
    shares = ", ".join(
        f"{share:.0%} {what}"
        for share, what in zip(config["shares"], ("adults", "children", "drawings", "films taken apart"), strict=True)
    )
    return (
        f"MONAI `{network['_target_'].rpartition('.')[2]}` ({shape}), random start, trained by `sangloc gate train` on"
        f" {training['adults']:,} adult films of split `train` and {training['children']:,} children's (half of split"
        f" `pediatric`, divided by a digest of the group): {views:,} views ({shares}), turned by quarters, inverted,"
        f" cropped, moved, exposed anew; some of the adults are phantoms, so that the demo passes. AdamW, one"
        f" cycle up to {config['learning_rate']}, running average of the weights ({config['ema']}), seed"
        f" {config['seed']}; finished {training['finished']}. Thresholds were chosen on the"
        f" {ours['gate']['chosen_on']} adult films of split `val`, each in 4 views, so that each reason refuses at most"
        " one good view in 500:\n\n" + "\n".join(f"- `{name}` {value}" for name, value in limits.items())
    )


def _headline(report: GateReport) -> list[str]:
    """One line for each split: what becomes of its good films."""
    lines = []
    for group in dict.fromkeys(row.group for row in report.table):
        good = [row for row in report.table if row.group == group and row.kind.startswith("good film")]
        if good:
            whole = Row(group=group, kind="", **{name: sum(getattr(row, name) for row in good) for name in COUNTED})
            refused, wrong = whole.share(whole.refused), whole.share(whole.wrong)
            lines.append(f"- Good films of {group}: {whole.images}, refused {refused}, turned or inverted {wrong}.")
    return lines


def _figures(report: GateReport, command: str) -> str:
    intro = (
        f"95 % intervals by film (Wilson). Made by `{command}`. *As it should be*: a good film scored as it came,"
        " a turned or inverted one put right, anything else refused. *Missed*: scored as it came. *Wrongly put right*:"
        " turned or inverted, and not as it should have been."
    )
    lines = [
        intro,
        "",
        *_headline(report),
        "",
        f"| {' | '.join(report.COLUMNS)} |",
        "|" + "---|" * len(report.COLUMNS),
    ]
    lines += [f"| {' | '.join(row)} |" for row in report.rows()]
    return "\n".join(lines)
