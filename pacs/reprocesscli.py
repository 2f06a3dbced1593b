"""`sangloc reprocess`: a model over what is stored already. Workers do it; these commands start and show it."""

# ruff: noqa: PLC0415 - imports inside commands keep --help fast

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacs.commandline import Config, Data, Json, actor, load

if TYPE_CHECKING:
    from pacs.settings import Settings
    from storage.database import Connection, Database
    from storage.reprocessing import Reprocessing, Selection

__all__ = ["app"]

app = typer.Typer(
    help="Score what is stored already with a new model, while live studies go first.",
    epilog="What it does to the worklist, and how fast it is: docs/operations.md, Reprocessing.",
    no_args_is_help=True,
)

Many = list[str] | None
Day = dt.datetime | None
_DAY = ["%Y-%m-%d"]
Number = Annotated[
    int | None, typer.Argument(help="Of the reprocessing; without it the one that has not ended.", min=1)
]
Watch = Annotated[bool, typer.Option("--watch", help="Stay and show the progress; Ctrl-C ends only that.")]


@contextlib.contextmanager
def _database(config: Path | None, data: Path | None) -> Iterator[tuple[Settings, Database]]:
    from pacs import parts
    from pacs.launch import database_at_hand

    with database_at_hand(load(config, data=data)) as settings:
        database = parts.database(settings, "reprocess")
        try:
            yield settings, database
        finally:
            database.close()


@app.command()
def start(
    *,
    model: Annotated[
        str, typer.Option("--model", help="NAME@VERSION from `sangloc models list`, or active.", metavar="MODEL")
    ] = "active",
    date_from: Annotated[
        Day, typer.Option("--from", help="Studies of this day or later.", formats=_DAY, metavar="DATE")
    ] = None,
    date_to: Annotated[
        Day, typer.Option("--to", help="Studies of this day or earlier.", formats=_DAY, metavar="DATE")
    ] = None,
    modality: Annotated[Many, typer.Option("--modality", help="May be repeated.", metavar="CODE")] = None,
    site: Annotated[Many, typer.Option("--site", help="May be repeated.", metavar="NAME")] = None,
    uids: Annotated[
        Path | None,
        typer.Option(
            "--uids",
            help="File of study, series or instance UIDs, one a line; - is standard input.",
            metavar="FILE",
            allow_dash=True,
        ),
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Also CR and DX images that were refused before.")] = False,
    rate: Annotated[float | None, typer.Option("--rate", help="At most so many images a second.", metavar="N")] = None,
    beside_live: Annotated[
        bool, typer.Option("--beside-live", help="Go on while others read live images; these still go first.")
    ] = False,
    watch: Watch = False,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Begin: every image that fits all options and has no score of this model in this version yet."""
    from pacs import reprocessing

    selection = _selection(date_from, date_to, modality, site, uids, refused=refused)
    with _database(config, data) as (settings, database):
        begun = reprocessing.start(
            settings, database, selection, actor(), model=model, images_per_s=rate, when_idle=not beside_live
        )
        if not as_json:
            typer.echo(reprocessing.line(begun))
            typer.echo(reprocessing.advice(database, begun))
        if watch and reprocessing.workers_alive(database):
            begun = reprocessing.watch(database, begun)
        if watch or as_json:
            _tell(begun, as_json=as_json)


@app.command()
def status(
    number: Number = None,
    *,
    watch: Watch = False,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show the latest reprocessings, or one. Exit status 1 where one stands still with a problem, or images failed."""
    from pacs import reprocessing
    from storage import reprocessing as stored

    with _database(config, data) as (_, database):
        with database.autocommit() as connection:
            found = [stored.by_number(connection, number)] if number else stored.all_of_them(connection)
        if watch and found and found[0].state == "running":
            found[0] = reprocessing.watch(database, found[0])
    if as_json:
        typer.echo(json.dumps([reprocessing.as_json(one) for one in found]))
    for one in found if not as_json else []:
        _tell(one, as_json=False)
    if not found and not as_json:
        typer.echo("nothing was reprocessed yet; see: sangloc reprocess start --help")
    raise typer.Exit(1 if any(one.problem or one.failed for one in found) else 0)


@app.command()
def pause(number: Number = None, config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Hand out nothing more; what is in hand is finished. A restart of the system does not resume it."""
    from storage import reprocessing as stored

    with _database(config, data) as (_, database), database.transaction() as connection:
        _tell(stored.pause(connection, _chosen(connection, number), actor()), as_json=as_json)


@app.command()
def resume(
    number: Number = None,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Also try images again that were given up.")] = False,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Go on after a pause. After a crash or a restart it goes on by itself."""
    from storage import jobs
    from storage import reprocessing as stored

    with _database(config, data) as (_, database):
        with database.transaction() as connection:
            one = stored.resume(connection, _chosen(connection, number, ended=failed), actor(), failed=failed)
        with database.autocommit() as connection:
            jobs.notify(connection)
    _tell(one, as_json=as_json)


@app.command()
def cancel(number: Number = None, config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """End it. Scores that were made stay; starting again goes on where they end."""
    from storage import reprocessing as stored

    with _database(config, data) as (_, database), database.transaction() as connection:
        _tell(stored.cancel(connection, _chosen(connection, number), actor()), as_json=as_json)


@app.command()
def cluster(
    number: Number = None,
    *,
    nodes: Annotated[int, typer.Option("--workers", help="Workers in the cluster.", min=1, metavar="N")] = 1,
    cpus: Annotated[float, typer.Option("--cpus", help="Processor cores of each.", min=0.1, metavar="N")] = 2.0,
    gpus: Annotated[float, typer.Option("--gpus", help="GPUs of each.", min=0.0, metavar="N")] = 0.0,
    address: Annotated[
        str, typer.Option("--address", help="Of Ray: auto, ray://host:port, or local for one here.", metavar="ADDRESS")
    ] = "auto",
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Let workers on a Ray cluster help, until it ends or Ctrl-C. Needs `pip install 'sangloc[models,cluster]'`."""
    from pacs.cluster import Nodes, work_off
    from pacs.reprocessing import watched
    from storage import reprocessing as stored

    with _database(config, data) as (settings, database):
        with database.autocommit() as connection:
            begun = stored.by_number(connection, _chosen(connection, number))
        with watched(database, begun):
            work_off(settings, begun.reprocessing_pk, Nodes(nodes, cpus, gpus, address))
        with database.autocommit() as connection:
            _tell(stored.by_number(connection, begun.reprocessing_pk), as_json=as_json)


@app.command()
def problems(
    number: Number = None,
    *,
    limit: Annotated[int, typer.Option("--limit", help="Images at most.", min=1, max=100_000)] = 50,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List the images that got no score, with the reason: refused by the model, or given up after several tries."""
    from dataclasses import asdict

    from storage import reprocessing as stored

    with _database(config, data) as (_, database), database.autocommit() as connection:
        found = stored.ended_items(connection, _chosen(connection, number, ended=True), limit=limit)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found]))
    for one in found if not as_json else []:
        typer.echo(f"{one.state} {one.sop_uid}: {one.reason}")


def _selection(
    date_from: Day, date_to: Day, modality: Many, site: Many, uids: Path | None, *, refused: bool
) -> Selection:
    from pacs.reprocessing import read_uids
    from storage.reprocessing import Selection

    return Selection(
        date_from=date_from.date() if date_from else None,
        date_to=date_to.date() if date_to else None,
        modalities=tuple(modality or ()),
        sites=tuple(site or ()),
        uids=read_uids(uids) if uids else (),
        refused=refused,
    )


def _chosen(connection: Connection, number: int | None, *, ended: bool = False) -> int:
    from pacs.reprocessing import unfinished

    return number or unfinished(connection, ended=ended)


def _tell(one: Reprocessing, *, as_json: bool) -> None:
    from pacs import reprocessing

    typer.echo(json.dumps(reprocessing.as_json(one)) if as_json else reprocessing.line(one))
