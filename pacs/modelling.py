"""`sangloc train` and `sangloc evaluate`: progress bars and tables around `models`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from pacs.terminal import progress_bars
from storage.errors import InvalidInput

__all__ = ["compare", "evaluate", "train"]


def train(
    manifest: Path, out: Path, *, recipe: str, fold: int | None, start: Path | None, teachers: Sequence[Path],
    epochs: int | None, seed: int | None,
) -> None:  # fmt: skip
    """Train on the manifest's train split into `out`, going on from a checkpoint that lies there.

    Raises:
        InvalidBundle: a teacher cannot be used.
        InvalidInput: the manifest cannot be used, or there is no such recipe.
    """
    from dataclasses import replace  # noqa: PLC0415

    from models import training  # noqa: PLC0415  torch takes seconds to import

    config = training.RECIPES.get(recipe)
    if config is None:
        raise InvalidInput(f"there is no recipe {recipe!r}: {', '.join(training.RECIPES)}")
    config = replace(config, fold=fold)
    config = config if epochs is None else config.with_epochs(epochs)
    config = config if seed is None else replace(config, seed=seed)
    with progress_bars() as bars:
        task = bars.add_task("read", total=None)

        def show(now: training.Progress) -> None:
            words = now.stage
            if now.stage == "train":
                words = f"epoch {now.epoch}/{now.epochs}"
                words += "" if math.isnan(now.loss) else f"  loss {now.loss:.3f}"
                words += "" if math.isnan(now.val_auroc) else f"  AUROC on val {now.val_auroc:.3f}"
            bars.update(task, description=words, completed=now.step, total=now.steps)

        bundle = training.train(manifest, out, config, progress=show, start=start, teachers=teachers)
    typer.echo(f"{bundle}: run it with --bundle {bundle}, judge it with: sangloc evaluate {bundle} {manifest}")


def compare(runs: Sequence[Path], manifest: Path, *, keep: Path | None) -> None:
    """Print what each of some runs of `train` brought over the first of them; with `keep`, for that bundle's card too.

    Raises:
        InvalidInput: a folder is no finished run, or the manifest cannot be used.
    """
    from models import ablation  # noqa: PLC0415

    rows = ablation.compare([ablation.read_run(run) for run in runs], manifest)
    if keep is not None:
        ablation.write_rows(rows, keep)
    table = Table("step", "networks", "hours", "AUROC on val", "and on the fold left out", "gain over the first")
    for row in rows:
        held = "" if row.held is None else _interval(row.held)
        table.add_row(row.step, str(row.nets), f"{row.hours:.2f}", _interval(row.val), held, _interval(row.gain))
    Console(width=None if Console().is_terminal else 160).print(table)


def _interval(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def evaluate(
    bundle: Path, manifest: Path, *, splits: Sequence[str], resamples: int, reference: Path | None, as_json: bool,
    card: str | None,
) -> None:  # fmt: skip
    """Print how good the bundle is on the films of the manifest, with 95 % bootstrap intervals, by source.

    With `card`, the command that was given, the bundle's card is written anew.

    Raises:
        InvalidBundle: the bundle cannot be used.
        InvalidInput: the manifest cannot be used.
    """
    from models import evaluation  # noqa: PLC0415

    with progress_bars() as bars:
        task = bars.add_task("films", total=None)
        report = evaluation.evaluate(
            bundle,
            manifest,
            splits=splits,
            resamples=resamples,
            reference=reference,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if card is not None:
        from models.card import write_card  # noqa: PLC0415

        write_card(bundle, report, card)
    if as_json:
        typer.echo(report.to_json())
        return
    table = Table(*report.COLUMNS)
    for row in report.rows():
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)
