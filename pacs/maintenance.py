"""`sangloc import` and `sangloc verify`: progress bars and accounts around `pacs.importing` and `pacs.verify`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import typer

from pacs import importing, parts
from pacs import verify as verifying
from pacs.launch import database_at_hand
from pacs.settings import Settings
from pacs.terminal import progress_bars

__all__ = ["import_folder", "verify"]

_NAMED = 20  # problems named on the terminal; the counts go on


def import_folder(settings: Settings, folder: Path) -> int:
    """Take the DICOM files of `folder` in and print an account; 0 when none was left behind, else 1.

    Raises:
        Unavailable: object store or database stayed away; the next run goes on where this one was.
    """
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    with database_at_hand(settings) as at_hand, progress_bars() as bars:
        task = bars.add_task("files", total=None)
        door = parts.ingest(at_hand, "import")
        door.store.check()
        try:
            report = importing.import_folder(
                door,
                folder,
                progress=lambda report, total: bars.update(task, completed=report.files, total=total),
                resume=settings.data / "imports" / f"{name}.journal",
            )
        finally:
            door.close()
    typer.echo(
        f"{report.files} files: {report.stored} stored, {report.duplicate + report.skipped} were there, "
        f"{report.conflict} in conflict, {report.not_dicom} no DICOM, {len(report.failed)} not taken"
    )
    for path, reason in report.failed[:_NAMED]:
        typer.echo(f"  {path}: {reason}")
    if len(report.failed) > _NAMED:
        typer.echo(f"  and {len(report.failed) - _NAMED} more")
    return 1 if report.failed else 0


def verify(settings: Settings, *, as_json: bool, sample: float | None = None, remove_orphans: bool = False) -> int:
    """Compare objects and index and print what is wrong; 0 when every row has its object, else 1.

    Raises:
        InvalidInput: orphans are to be removed and the index names no object.
        Unavailable: object store or database is away.
    """
    with database_at_hand(settings) as at_hand, progress_bars() as bars:
        task = bars.add_task("objects", total=None)
        report = verifying.verify(
            parts.database(at_hand, "verify"),
            parts.object_store(at_hand),
            progress=lambda report, total: bars.update(task, completed=report.checked, total=total),
            sample=sample,
            remove_orphans=remove_orphans,
        )
    if as_json:
        typer.echo(json.dumps({**asdict(report), "damaged": [damage._asdict() for damage in report.damaged]}))
        return 0 if report.sound else 1
    typer.echo(
        f"{report.checked} objects read ({report.bytes / 1e9:.1f} GB): {report.damaged_count} damaged or missing; "
        f"{report.orphan_count} objects without a row" + (f", {report.removed} removed" if remove_orphans else "")
    )
    for damage in report.damaged[:_NAMED]:
        typer.echo(f"  {damage.sop_uid} ({damage.object_key}): {damage.problem}")
    for key in report.orphans[:_NAMED]:
        typer.echo(f"  {key}: no row names it")
    return 0 if report.sound else 1
