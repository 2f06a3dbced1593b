"""`sangloc studies`: delete, reject, restore, correct, merge and undo, with a history."""

# ruff: noqa: PLC0415 - imports inside commands keep --help fast

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacs.commandline import Config, Data, Json, actor, load

if TYPE_CHECKING:
    from storage.changes import By, Change
    from storage.database import Connection
    from storage.removal import RejectionPolicy

__all__ = ["app"]

app = typer.Typer(
    help="Delete, reject, restore, correct and merge studies. What is stored never changes.", no_args_is_help=True
)

Study = Annotated[str, typer.Argument(help="Study Instance UID.", metavar="STUDY")]
Series = Annotated[str | None, typer.Option("--series", help="Only this series.", metavar="UID")]
Instances = Annotated[list[str] | None, typer.Option("--instance", help="Only this; may be repeated.", metavar="UID")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stays in the history.", metavar="TEXT")]
Comment = Annotated[str, typer.Option("--comment", help="More words.", metavar="TEXT")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]


class _Run:
    """One change on the database of the system."""

    def __init__(self, config: Path | None, data: Path | None, *, as_json: bool, dry_run: bool) -> None:
        self.config, self.data, self.as_json, self.dry_run = config, data, as_json, dry_run

    def __call__(self, by: By, change: Callable[[Connection, By, RejectionPolicy], Change]) -> None:
        from pacs import parts
        from pacs.launch import database_at_hand
        from storage import changes

        with (
            database_at_hand(load(self.config, data=self.data)) as settings,
            contextlib.closing(parts.database(settings, "changes")) as database,
        ):
            policy = parts.rejection_policy(settings)
            done = changes.write(database, lambda c: change(c, by, policy), dry_run=self.dry_run)
        show([done], as_json=self.as_json, would=self.dry_run)


def show(found: list[Change], *, as_json: bool, would: bool = False) -> None:
    """Print changes, each on a line (or as JSON)."""
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], default=str))
        return
    for one in found:
        what = ", ".join(
            f"{key}: {value}" for key, value in one.detail.items() if isinstance(value, str | int) and value
        )
        ends = {"undone": one.undone_by, "restored": one.restored_at, "purged": one.purged_at}
        state = next((f" ({name})" for name, set_ in ends.items() if set_), "")
        number = "would be" if would else str(one.change_pk)
        typer.echo(f"{number}  {one.at:%Y-%m-%d %H:%M}  {one.kind}{state}  {one.actor}: {one.reason}  {what}".rstrip())


def _by(reason: str, comment: str = "") -> By:
    from storage.changes import By

    return By(actor=actor(), reason=reason, comment=comment)


@app.command()
def delete(
    study: Study, reason: Reason, *, series: Series = None, instance: Instances = None, comment: Comment = "",
    dry_run: DryRun = False, config: Config = None, data: Data = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Hide a study, series or instances; after the grace time they are purged. A resend shows them again."""
    from storage import removal

    scope = removal.Scope(study_uid=study, series_uid=series, sop_uids=tuple(instance or ()))
    _Run(config, data, as_json=as_json, dry_run=dry_run)(
        _by(reason, comment), lambda c, by, policy: removal.remove(c, "delete", scope, by, grace=policy.grace)
    )


@app.command()
def reject(
    study: Study,
    reason: Annotated[
        str, typer.Option("--reason", help="quality, patient_safety, wrong_worklist or retention_expired.")
    ],
    *, series: Series = None, instance: Instances = None, comment: Comment = "", dry_run: DryRun = False,
    config: Config = None, data: Data = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Hide a study, series or instances and tell other archives by a rejection note (IHE IOCM)."""
    from storage import moving, removal

    scope = removal.Scope(study_uid=study, series_uid=series, sop_uids=tuple(instance or ()))
    _Run(config, data, as_json=as_json, dry_run=dry_run)(
        _by(reason, comment),
        lambda c, by, policy: removal.remove(c, "reject", scope, by, grace=policy.grace, note_uid=moving.new_uid()),
    )


@app.command()
def restore(
    study: Study, reason: Reason, *, series: Series = None, instance: Instances = None, dry_run: DryRun = False,
    config: Config = None, data: Data = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Show again what is hidden in a study."""
    from storage import removal

    scope = removal.Scope(study_uid=study, series_uid=series, sop_uids=tuple(instance or ()))
    _Run(config, data, as_json=as_json, dry_run=dry_run)(_by(reason), lambda c, by, _: removal.restore(c, scope, by))


@app.command()
def update(
    study: Study,
    values: Annotated[list[str], typer.Option("--set", help="PatientName=Nguyễn^Văn An; may be repeated.")],
    reason: Reason, *, series: Series = None, dry_run: DryRun = False, config: Config = None, data: Data = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Correct attributes of a study, or of one of its series; an empty value empties the attribute."""
    from storage import editing
    from storage.errors import InvalidInput

    if not all("=" in value for value in values):
        raise InvalidInput("--set takes KEYWORD=VALUE")
    given = dict(value.split("=", 1) for value in values)

    def change(connection: Connection, by: By, _: RejectionPolicy) -> Change:
        if series is None:
            return editing.update_study(connection, study, given, by)
        return editing.update_series(connection, study, series, given, by)

    _Run(config, data, as_json=as_json, dry_run=dry_run)(_by(reason), change)


@app.command()
def merge(
    study: Study,
    into: Annotated[str, typer.Argument(help="The study that stays.", metavar="INTO")],
    reason: Reason, *, dry_run: DryRun = False, config: Config = None, data: Data = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Move all series of a study to another one, now and when more come."""
    from storage import moving

    _Run(config, data, as_json=as_json, dry_run=dry_run)(
        _by(reason), lambda c, by, _: moving.merge_studies(c, study, into, by)
    )


@app.command()
def undo(
    number: Annotated[int, typer.Argument(help="Number of the change: `sangloc studies history`.", metavar="NUMBER")],
    reason: Reason, *, dry_run: DryRun = False, config: Config = None, data: Data = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Take the last change of a study back."""
    from storage import undoing

    _Run(config, data, as_json=as_json, dry_run=dry_run)(_by(reason), lambda c, by, _: undoing.undo(c, number, by))


@app.command()
def history(study: Study, *, config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Show what was changed in a study, the newest first."""
    from pacs import parts
    from pacs.launch import database_at_hand
    from storage import changes

    with (
        database_at_hand(load(config, data=data)) as settings,
        contextlib.closing(parts.database(settings, "changes")) as database,
        database.autocommit() as connection,
    ):
        found = changes.page(connection, study_uid=study, limit=1_000)
    show(found, as_json=as_json)
