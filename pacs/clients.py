"""`sangloc send`, `sangloc echo` and `sangloc peers`: towards other archives, from the command line."""

# ruff: noqa: PLC0415 - imports inside commands keep --help fast

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pacs.commandline import Config, Data, Json, actor, load

if TYPE_CHECKING:
    from storage.peers import Peer

__all__ = ["echo", "peers", "send"]

peers = typer.Typer(
    help="The registry of peers, which C-MOVE, forwarding and `sangloc send` know.", no_args_is_help=True
)

Target = Annotated[
    str,
    typer.Argument(
        help="A peer of the registry by name, AETITLE@host:port, or the base URL of a DICOMweb server.",
        metavar="TARGET",
    ),
]
Calling = Annotated[str | None, typer.Option("--calling", help="Our AE title, other than the setting.", metavar="AET")]
Tls = Annotated[bool, typer.Option("--tls", help="Speak TLS to AETITLE@host:port.")]
Token = Annotated[
    str, typer.Option("--token", help="Bearer token for a URL.", envvar="DICOMWEB_TOKEN", metavar="TOKEN")
]
Web = Annotated[bool, typer.Option("--web", help="Use DICOMweb for a peer that has both.")]
Name = Annotated[str, typer.Argument(help="Our name for the peer.", metavar="NAME")]


def echo(
    target: Target,
    *,
    config: Config = None,
    data: Data = None,
    count: Annotated[int, typer.Option("--count", "-n", help="How many times.", min=1, max=1000)] = 1,
    web: Web = False,
    tls: Tls = False,
    token: Token = "",
    calling: Calling = None,
    as_json: Json = False,
) -> None:
    """Ask a peer whether it is there: C-ECHO, or a small DICOMweb query. Exit status 0: it answers, 1: it does not."""
    from pacs import sending

    call = sending.Call.of(load(config, data=data), target, web=web, tls=tls, token=token, calling=calling)
    tries = [call.echo() for _ in range(count)]
    if as_json:
        typer.echo(json.dumps({"peer": call.shown, "tries": [one._asdict() for one in tries]}))
    else:
        for one in tries:
            timing = f"connected in {one.connect_ms:.1f} ms, answered in {one.answer_ms:.1f} ms"
            typer.echo(f"{call.shown}: {one.problem or timing}")
    raise typer.Exit(0 if not any(one.problem for one in tries) else 1)


def send(
    target: Target,
    paths: Annotated[
        list[Path] | None, typer.Argument(help="DICOM files and folders.", exists=True, metavar="PATH...")
    ] = None,
    *,
    config: Config = None,
    data: Data = None,
    study: Annotated[
        list[str] | None, typer.Option("--study", help="A study of the archive; may be repeated.", metavar="UID")
    ] = None,
    series: Annotated[
        list[str] | None, typer.Option("--series", help="A series of the archive; may be repeated.", metavar="UID")
    ] = None,
    web: Web = False,
    tls: Tls = False,
    token: Token = "",
    calling: Calling = None,
    as_json: Json = False,
) -> None:
    """Send files and folders, or studies of the archive, by C-STORE or STOW-RS. Exit status 0: all are stored there."""
    from pacs import sending

    if bool(paths) == bool(study or series):
        raise typer.BadParameter("give files and folders, or --study and --series, but not both")
    settings = load(config, data=data)
    call = sending.Call.of(settings, target, web=web, tls=tls, token=token, calling=calling)
    report = call.send_archived(study or [], series or []) if not paths else call.send_files(paths)
    typer.echo(json.dumps(report.as_dict()) if as_json else report.text(call.shown))
    raise typer.Exit(0 if report.whole else 1)


@peers.command("list")
def list_(config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Show the registry."""
    from storage.peers import all_peers

    with _transaction(config, data) as connection:
        found = all_peers(connection)
    if as_json:
        typer.echo(json.dumps([_facts(peer) for peer in found], ensure_ascii=False))
        return
    for peer in found:
        dimse = f"{peer.aet}@{peer.host}:{peer.port}{' (TLS)' if peer.tls else ''}" if peer.has_dimse else ""
        typer.echo("  ".join(filter(None, (peer.name, dimse, peer.dicomweb_url, peer.comment))))


@peers.command()
def add(
    name: Name,
    address: Annotated[str | None, typer.Argument(help="AETITLE@host:port; without: DICOMweb only.")] = None,
    *,
    config: Config = None,
    data: Data = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS to it.")] = False,
    url: Annotated[str, typer.Option("--url", help="Base URL of its DICOMweb services.", metavar="URL")] = "",
    token: Token = "",
    comment: Annotated[str, typer.Option("--comment", help="For people.", metavar="TEXT")] = "",
) -> None:
    """Add a peer, or replace the one of this name."""
    from pacs.sending import dimse_address
    from storage.peers import Peer, put

    reached: dict[str, Any] = dimse_address(address) if address else {}
    peer = Peer(name=name, **reached, tls=tls, dicomweb_url=url, dicomweb_token=token, comment=comment)
    with _transaction(config, data) as connection:
        added = put(connection, peer, actor())
    typer.echo(f"{name} {'added' if added else 'changed'}")


@peers.command()
def remove(name: Name, *, config: Config = None, data: Data = None) -> None:
    """Forget a peer."""
    from storage.peers import remove as forget

    with _transaction(config, data) as connection:
        forget(connection, name, actor())
    typer.echo(f"{name} removed")


def _transaction(config: Path | None, data: Path | None) -> Any:
    from pacs.sending import transaction

    return transaction(load(config, data=data))


def _facts(peer: Peer) -> dict[str, Any]:
    from dataclasses import asdict

    facts = asdict(peer)
    return {**facts, "dicomweb_token": "(set)" if facts["dicomweb_token"] else ""}
