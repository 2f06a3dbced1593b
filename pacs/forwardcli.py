"""`sangloc forwarding`: where copies go, which, and what waits there."""

# ruff: noqa: PLC0415 - imports inside commands keep --help fast

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pacs.commandline import Config, Data, Json, actor, load

if TYPE_CHECKING:
    from storage.database import Connection
    from storage.destinations import Status, Window

__all__ = ["app"]

app = typer.Typer(help="Send copies to other archives: destinations, rules and queues.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the destination.", metavar="NAME")]
Many = list[str] | None


@contextlib.contextmanager
def _database(config: Path | None, data: Path | None, *, wakes: bool = True) -> Iterator[Connection]:
    """A transaction on the database of the system; the exchange process hears of it afterwards."""
    from pacs import parts
    from pacs.launch import database_at_hand
    from storage import destinations

    with database_at_hand(load(config, data=data)) as settings:
        database = parts.database(settings, "forwarding")
        with database.transaction() as connection:
            yield connection
        if wakes:
            with database.autocommit() as connection:
                destinations.notify(connection)
        database.close()


@app.command()
def status(config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Show every destination with its queue. Exit status 1 while a line fails or something was given up."""
    from dataclasses import asdict

    from storage import destinations

    with _database(config, data, wakes=False) as connection:
        found = destinations.status(connection)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], default=str))
    for one in found if not as_json else []:
        typer.echo(_line(one))
    raise typer.Exit(1 if any(one.failures or one.dead for one in found) else 0)


def _line(one: Status) -> str:
    state = "paused" if one.paused else f"{one.failures} failures in a row" if one.failures else "well"
    oldest = f", the oldest for {one.oldest_s:.0f} s" if one.waiting else ""
    error = f"\n  last error: {one.last_error}" if one.failures or one.dead else ""
    return (
        f"{one.name} ({one.method} to {one.peer}): {state}; {one.waiting} waiting{oldest}, {one.dead} given up,"
        f" {one.sent_instances} sent ({one.sent_bytes / 1e6:.1f} MB){error}"
    )


@app.command()
def destination(
    name: Name,
    *,
    peer: Annotated[str, typer.Option("--peer", help="Name in the registry of peers: `sangloc peers`.")],
    method: Annotated[str, typer.Option("--method", help="dimse, stow, or ian: only notices of studies.")] = "dimse",
    parallel: Annotated[int, typer.Option("--parallel", help="Connections at a time.", min=1, max=16)] = 1,
    window: Annotated[
        Many, typer.Option("--window", help="22:00-06:00, or 22:00-06:00@200000 bytes a second; may be repeated.")
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Of the windows.")] = "UTC",
    commitment: Annotated[bool, typer.Option("--commitment", help="Ask for storage commitment afterwards.")] = False,
    max_attempts: Annotated[int, typer.Option("--max-attempts", help="For an instance that is refused.", min=1)] = 8,
    config: Config = None,
    data: Data = None,
) -> None:
    """Add a destination, or change it."""
    from typing import cast

    from storage.destinations import Destination, Method, put

    wanted = Destination(
        name=name,
        peer=peer,
        method=cast("Method", method),
        parallel=parallel,
        windows=tuple(map(_window, window or ())),
        timezone=timezone,
        commitment=commitment,
        max_attempts=max_attempts,
    )
    with _database(config, data) as connection:
        put(connection, wanted, actor())


def _window(text: str) -> Window:
    import datetime as dt

    from storage.destinations import Window
    from storage.errors import InvalidInput

    hours, _, pace = text.partition("@")
    start, _, until = hours.partition("-")
    try:
        return Window(dt.time.fromisoformat(start), dt.time.fromisoformat(until), int(pace) if pace else None)
    except ValueError:
        raise InvalidInput(f"{text} is no window: 22:00-06:00 or 22:00-06:00@200000") from None


@app.command()
def remove(name: Name, config: Config = None, data: Data = None) -> None:
    """Forget a destination with its rules and its queue."""
    from storage import destinations

    with _database(config, data) as connection:
        destinations.remove(connection, name, actor())


@app.command()
def pause(name: Name, config: Config = None, data: Data = None) -> None:
    """Send nothing there until it is resumed; its queue grows on."""
    _set_paused(name, config, data, paused=True)


@app.command()
def resume(name: Name, config: Config = None, data: Data = None) -> None:
    """Go on now, whatever the back-off says."""
    _set_paused(name, config, data, paused=False)


def _set_paused(name: str, config: Path | None, data: Path | None, *, paused: bool) -> None:
    from storage import destinations

    with _database(config, data) as connection:
        destinations.pause(connection, name, actor(), paused=paused)


@app.command()
def rule(
    name: Name,
    *,
    source: Annotated[Many, typer.Option("--source", help="Calling AE title; may be repeated.")] = None,
    modality: Annotated[Many, typer.Option("--modality", help="May be repeated.")] = None,
    site: Annotated[Many, typer.Option("--site", help="May be repeated.")] = None,
    sop_class: Annotated[Many, typer.Option("--sop-class", help="UID; may be repeated.")] = None,
    flagged: Annotated[bool, typer.Option("--flagged", help="Only studies that a model has flagged.")] = False,
    urgency: Annotated[int, typer.Option("--urgency", help="Higher goes first.", min=0, max=9)] = 0,
    backfill: Annotated[bool, typer.Option("--backfill", help="Also what is there already.")] = False,
    config: Config = None,
    data: Data = None,
) -> None:
    """Send there what fits every filter that is given; without any, everything."""
    from storage.destinations import Rule, add_rule

    wanted = Rule(
        destination=name,
        source_aets=source or (),
        modalities=modality or (),
        sites=site or (),
        sop_classes=sop_class or (),
        flagged_only=flagged,
        urgency=urgency,
    )
    with _database(config, data) as connection:
        number = add_rule(connection, wanted, actor(), backfill=backfill)
    typer.echo(f"rule {number}")


@app.command()
def rules(config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Show all rules."""
    from dataclasses import asdict

    from storage import destinations

    with _database(config, data, wakes=False) as connection:
        found = [asdict(one) for one in destinations.all_rules(connection)]
    if as_json:
        typer.echo(json.dumps(found))
        return
    for one in found:
        number, where = one.pop("rule_pk"), one.pop("destination")
        filters = ", ".join(f"{key} {value}" for key, value in one.items() if value and value is not True)
        flags = ", ".join(key for key, value in one.items() if value is True and key != "enabled")
        typer.echo(f"{number}: to {where}: {', '.join(filter(None, (filters, flags))) or 'everything'}")


@app.command("remove-rule")
def remove_rule(
    number: Annotated[int, typer.Argument(help="Of the rule.", min=1)], config: Config = None, data: Data = None
) -> None:
    """Forget a rule; what it has queued stays queued."""
    from storage import destinations

    with _database(config, data) as connection:
        destinations.remove_rule(connection, number, actor())


@app.command()
def queue(
    name: Name,
    *,
    state: Annotated[str, typer.Option("--state", help="waiting, dead, sent, asked, done, committed, cancelled.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="Entries at most.", min=1, max=100_000)] = 50,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show the entries of a queue: what was given up, then what waits, unless a state is given."""
    from dataclasses import asdict
    from typing import cast

    from storage import forwarding

    with _database(config, data, wakes=False) as connection:
        found = [
            entry
            for each in ([state] if state else ["dead", "waiting"])
            for entry in forwarding.entries(connection, name, cast("forwarding.State", each), limit=limit)
        ][:limit]
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in found], default=str))
        return
    for entry in found:
        typer.echo(f"{entry.number} {entry.state} {entry.sop_uid or entry.study_uid} {entry.attempts} {entry.error}")


@app.command()
def retry(
    name: Name,
    number: Annotated[int | None, typer.Argument(help="Of one entry; without it all that were given up.")] = None,
    config: Config = None,
    data: Data = None,
) -> None:
    """Try entries that were given up again."""
    from storage import forwarding

    with _database(config, data) as connection:
        typer.echo(f"{forwarding.retry(connection, name, actor(), number)} entries")


@app.command()
def cancel(
    name: Name,
    number: Annotated[int | None, typer.Argument(help="Of one entry; without it all that were given up.")] = None,
    config: Config = None,
    data: Data = None,
) -> None:
    """Give entries up for good."""
    from storage import forwarding

    with _database(config, data) as connection:
        typer.echo(f"{forwarding.cancel(connection, name, actor(), number)} entries")


@app.command()
def study(
    name: Name,
    study_uid: Annotated[str, typer.Argument(help="Study Instance UID.")],
    config: Config = None,
    data: Data = None,
) -> None:
    """Send a study there whatever the rules say, again if it was sent before."""
    from storage import forwarding

    with _database(config, data) as connection:
        typer.echo(f"{forwarding.enqueue_study(connection, name, study_uid, actor())} entries")
