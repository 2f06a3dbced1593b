"""`sangloc gate`: train and judge the input gate, and ask it about files."""

# ruff: noqa: PLC0415 - imports inside commands keep --help fast

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["app"]

app = typer.Typer(
    help="The input gate: what is a frontal chest film of an adult, and which way up.", no_args_is_help=True
)

Manifest = Annotated[Path, typer.Argument(help="manifest.csv of films with splits, ages and groups.", dir_okay=False)]
Bundle = Annotated[Path | None, typer.Option("--bundle", help="Folder of the gate; unset: the one that ships.")]


@app.command()
def train(
    manifest: Manifest,
    out: Annotated[Path, typer.Option("--out", help="Folder of the bundle.", metavar="DIR")] = Path("runs/gate"),
    *,
    seed: Annotated[int | None, typer.Option("--seed", help="Other random numbers.")] = None,
) -> None:
    """Train the input gate; some minutes on one core."""
    from dataclasses import replace

    from models.gate_fitting import GateConfig, train_gate
    from pacs.terminal import progress_bars

    config = GateConfig() if seed is None else replace(GateConfig(), seed=seed)
    with progress_bars() as bars:
        task = bars.add_task("read", total=None)

        def tell(stage: str, step: int, steps: int) -> None:
            bars.update(task, description=stage, completed=step, total=steps)

        folder = train_gate(manifest, out, config, tell=tell)
    typer.echo(f"{folder}: judge it with: sangloc gate evaluate {manifest} --bundle {folder}")


@app.command()
def evaluate(
    manifest: Manifest,
    *,
    bundle: Bundle = None,
    others: Annotated[
        Path | None, typer.Option("--others", help="Folder of DICOM files; those that are no chest are judged too.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the figures into the bundle's card.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what becomes of good films and of each kind of other image, with 95 % intervals."""
    from rich.console import Console
    from rich.table import Table

    from models.gate import DEFAULT_GATE
    from models.gate_card import write_gate_card
    from models.gate_evaluation import evaluate_gate

    folder = bundle or DEFAULT_GATE
    report = evaluate_gate(folder, manifest, others=_others(others) if others else ())
    if card:
        command = f"sangloc gate evaluate {manifest}" + (f" --others {others}" if others else "")
        write_gate_card(folder, report, command)
    if as_json:
        typer.echo(report.to_json())
        return
    table = Table(*report.COLUMNS)
    for row in report.rows():
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(table)


@app.command()
def look(
    files: Annotated[list[Path], typer.Argument(help="DICOM, PNG or JPEG files.", exists=True, dir_okay=False)],
    *,
    bundle: Bundle = None,
) -> None:
    """Say of each file whether it is scored, what is put right before, or why it is not."""
    from inference.gate import open_gate
    from storage.errors import NotScorable

    gate = open_gate(bundle)
    for file in files:
        try:
            _, film = _image(file)
            notes = gate.look(film).notes
            typer.echo(f"{file}: scored" + "".join(f"; {note}" for note in notes))
        except NotScorable as error:
            typer.echo(f"{file}: not scored: {error}")


def _others(folder: Path) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """The grey single images of a folder that are no chest films by their header, each once, in their names' order."""
    import cv2

    from inference.eligibility import is_chest
    from storage.errors import NotScorable
    from storage.names import fold

    seen: set[bytes] = set()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            kind, film = _image(file)
        except NotScorable:
            continue
        look_alike = (cv2.resize(film, (8, 8), interpolation=cv2.INTER_AREA) // 32).tobytes()  # in another encoding
        if look_alike not in seen and min(film.shape) >= 128 and kind and not is_chest(fold(kind)):
            seen.add(look_alike)
            yield kind, film


def _image(file: Path) -> tuple[str, npt.NDArray[np.uint8]]:
    """Modality and body part ('' of a PNG or JPEG), and the grey image [rows, columns]; raises `NotScorable`."""
    import cv2
    import numpy as np
    import pydicom

    from inference.pixels import read_pixels
    from pacs.part10 import read_head
    from storage.errors import InvalidDataSet, NotScorable

    content = file.read_bytes()
    try:
        head = read_head(io.BytesIO(content))
    except InvalidDataSet as error:
        raise NotScorable(str(error)) from error
    if head is None:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) if content else None
        if image is None:
            raise NotScorable("it is neither DICOM nor an image that can be read")
        return "", np.asarray(image, np.uint8)
    film = read_pixels(content, head.dataset_offset, head.transfer_syntax)
    header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    return " ".join(filter(None, (str(header.get("Modality", "")), str(header.get("BodyPartExamined", ""))))), film
