"""The `sangloc` command. Each command imports what it needs when it runs, so that `sangloc --help` is quick."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from pacs import clients, clients_query, correcting, forwardcli, gatecli, modelcli, reprocesscli
from pacs.commandline import Config, Data, Json
from pacs.commandline import load as _load
from storage.errors import SanglocError, SettingsError

__all__ = ["app", "known_commands", "main"]

app = typer.Typer(
    name="sangloc",
    help="An imaging archive that reads the queue before the radiologist does. Research use, not a medical device.",
    epilog="Settings: `sangloc settings` and docs/configuration.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(forwardcli.app, name="forwarding")
app.add_typer(correcting.app, name="studies")
app.add_typer(clients.peers, name="peers")
app.add_typer(modelcli.app, name="models")
app.add_typer(gatecli.app, name="gate")
app.add_typer(reprocesscli.app, name="reprocess")
app.command()(clients.send)
app.command()(clients.echo)
app.command()(clients_query.query)

DicomPort = Annotated[int | None, typer.Option("--dicom-port", help="DICOM port; 0 takes a free one.", metavar="PORT")]
HttpPort = Annotated[int | None, typer.Option("--http-port", help="HTTP port; 0 takes a free one.", metavar="PORT")]
AETitle = Annotated[str | None, typer.Option("--ae-title", help="Called AE title that senders use.", metavar="TITLE")]
Workers = Annotated[int | None, typer.Option("--workers", help="Worker processes.", min=0, metavar="N")]
NoWorker = Annotated[bool, typer.Option("--no-worker", help="Start no worker: the list stays in arrival order.")]
Receivers = Annotated[int | None, typer.Option("--receivers", help="Receiver processes; 0: one a core.", metavar="N")]
ListenFd = Annotated[int | None, typer.Option("--listen-fd", hidden=True)]
LifelineFd = Annotated[int | None, typer.Option("--lifeline", hidden=True)]


def main() -> None:
    """Run the command; an error that we expect is one line on standard error and exit status 1 (settings: 2)."""
    try:
        app()
    except SanglocError as error:
        print(f"sangloc: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2 if isinstance(error, SettingsError) else 1)


def _say(text: str) -> None:
    """Print a line; a terminal that has gone away must not end the system."""
    with contextlib.suppress(OSError):
        typer.echo(text)


@app.command()
def up(
    *,
    config: Config = None,
    data: Data = None,
    dicom_port: DicomPort = None,
    http_port: HttpPort = None,
    ae_title: AETitle = None,
    workers: Workers = None,
    no_worker: NoWorker = False,
    receivers: Receivers = None,
) -> None:
    """Run everything on one machine: database, receivers, worker, API. Ctrl-C or `sangloc down` stops it."""
    from pacs import launch

    settings = _load(
        config,
        data=data,
        dicom__port=dicom_port,
        http__port=http_port,
        dicom__ae_title=ae_title,
        worker__count=0 if no_worker else workers,
        dicom__receivers=receivers,
    )
    launch.up(settings, _say)


@app.command()
def down(
    *,
    config: Config = None,
    data: Data = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest wait, seconds.", metavar="SECONDS")] = 90.0,
) -> None:
    """Drain and stop the system that runs on a data folder."""
    from pacs import launch

    pid = launch.down(_load(config, data=data).data, timeout_s)
    typer.echo(f"stopped (process {pid})")


@app.command()
def status(config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Show what runs on a data folder and whether it is ready. Exit status 0: ready, 1: not."""
    from pacs import overview

    raise typer.Exit(overview.show_status(_load(config, data=data), as_json=as_json))


@app.command()
def demo(
    folder: Annotated[Path | None, typer.Argument(help="DICOM, PNG or JPEG files; without it, drawn phantoms.")] = None,
    *,
    config: Config = None,
    data: Data = None,
    dicom_port: DicomPort = None,
    http_port: HttpPort = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many files.", min=1, metavar="N")] = 60,
    once: Annotated[
        bool, typer.Option("--once", help="Stop when all is read; so it is too without a terminal.")
    ] = False,
) -> None:
    """Send studies by DICOM and watch the worklist fill: a folder of images, or chest phantoms that are drawn here."""
    from pacs import demo as demo_module

    settings = _load(config, data=data or Path("data/demo"), dicom__port=dicom_port, http__port=http_port)
    demo_module.run(settings, folder, limit=limit, once=once)


@app.command()
def receive(
    *,
    config: Config = None,
    dicom_port: DicomPort = None,
    ae_title: AETitle = None,
    receivers: Receivers = None,
    listen_fd: ListenFd = None,
    lifeline: LifelineFd = None,
) -> None:
    """Run only the DICOM receiver, against the database and object store of the settings."""
    settings = _load(config, dicom__port=dicom_port, dicom__ae_title=ae_title, dicom__receivers=receivers)
    if listen_fd is None:
        from pacs import launch

        launch.receive(settings, _say)
        return
    import socket

    from pacs import parts
    from pacs.lifeline import Lifeline

    parts.run_receiver(settings, socket.socket(fileno=listen_fd), Lifeline(lifeline).ready)


@app.command()
def triage(config: Config = None, data: Data = None, lifeline: LifelineFd = None) -> None:
    """Run only a worker: it reads images and puts studies in order."""
    from pacs import parts
    from pacs.lifeline import Lifeline

    parts.run_worker(_load(config, data=data), Lifeline(lifeline).ready)


@app.command()
def exchange(config: Config = None, data: Data = None, listen_fd: ListenFd = None, lifeline: LifelineFd = None) -> None:
    """Run only the background tasks: forwarding, commitment, notifications, HL7 messages, clearing up."""
    from pacs import parts
    from pacs.lifeline import Lifeline

    parts.run_exchange(_load(config, data=data), listen_fd, Lifeline(lifeline).ready)


@app.command()
def serve(
    *,
    config: Config = None,
    data: Data = None,
    http_port: HttpPort = None,
    listen_fd: ListenFd = None,
    lifeline: LifelineFd = None,
) -> None:
    """Run only the API and the worklist page."""
    from pacs import parts
    from pacs.lifeline import Lifeline

    settings = _load(config, data=data, http__port=http_port)
    try:
        parts.run_api(settings, listen_fd, Lifeline(lifeline).ready)
    except OSError as error:
        raise SanglocError(f"the HTTP port {settings.http.port} cannot be used: {error.strerror}") from None


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="DICOM files, at any depth.", exists=True)],
    *,
    config: Config = None,
    data: Data = None,
) -> None:
    """Take the DICOM files of a folder in; run it again after an interruption and it goes on where it was."""
    from pacs import maintenance

    raise typer.Exit(maintenance.import_folder(_load(config, data=data), folder))


@app.command()
def verify(
    *,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
    sample: Annotated[
        float | None, typer.Option("--sample", help="Share of the objects to read, 0 to 1.", min=0, max=1)
    ] = None,
    remove_orphans: Annotated[
        bool, typer.Option("--remove-orphans", help="Delete objects that no row has named for an hour.")
    ] = False,
) -> None:
    """Read every object again and compare it with its digest; list what is missing or belongs to nobody."""
    from pacs import maintenance

    settings = _load(config, data=data)
    raise typer.Exit(maintenance.verify(settings, as_json=as_json, sample=sample, remove_orphans=remove_orphans))


@app.command()
def migrate(config: Config = None, data: Data = None) -> None:
    """Bring the database schema up to date; `sangloc up` does so by itself."""
    from pacs import parts
    from pacs.launch import database_at_hand
    from storage.migrate import migrate as apply

    with database_at_hand(_load(config, data=data)) as settings:
        names = apply(parts.database(settings))
    typer.echo("applied " + ", ".join(names) if names else "nothing to apply")


@app.command("settings")
def settings_(
    *,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/configuration.md.")] = False,
) -> None:
    """Print every setting with its value and source; secrets are masked."""
    from pacs import overview
    from pacs.sources import load

    typer.echo(
        overview.markdown() if markdown else overview.settings_text(load(config=config, flags={"data": data}), as_json)
    )


@app.command()
def healthy(
    part: Annotated[str, typer.Argument(help="receiver, worker, exchange or api.")],
    *,
    config: Config = None,
    data: Data = None,
) -> None:
    """Check one part on this machine. Exit status 0: it does its work, 1: it does not."""
    from pacs import probe

    probe.probe(_load(config, data=data), probe.check_name(part))


@app.command()
def train(
    manifest: Annotated[Path, typer.Argument(help="manifest.csv of films with labels and splits.", dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of checkpoint and bundle.", metavar="DIR")] = Path(
        "runs/train"
    ),
    *,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="plain, sources, first, mixup, traits, drawn, all, distilled or tuned (docs/models.md)."
        ),
    ] = "all",
    fold: Annotated[
        int | None,
        typer.Option("--fold", help="Leave this quarter of the films out, to be judged on it.", min=0, max=3),
    ] = None,
    start: Annotated[Path | None, typer.Option("--start", help="Bundle whose weights are begun with.")] = None,
    teachers: Annotated[
        list[Path] | None, typer.Option("--teacher", help="Bundle whose answers are learnt; repeat for an ensemble.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Other than the recipe's own number.", min=1)] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Other random numbers.")] = None,
) -> None:
    """Train a model; run it again after an interruption and it goes on from its checkpoint.

    An ensemble in one network: train several recipes, each with its own --out, then --recipe distilled with each
    bundle as --teacher, or --recipe tuned with one of them as --start, too. Several processes or GPUs: torchrun
    --nproc-per-node N -m pacs.cli train ...
    """
    from pacs import modelling

    modelling.train(
        manifest, out, recipe=recipe, fold=fold, start=start, teachers=teachers or [], epochs=epochs, seed=seed
    )


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.", exists=True, file_okay=False)],
    manifest: Annotated[Path, typer.Argument(help="manifest.csv of films with labels and splits.", dir_okay=False)],
    *,
    splits: Annotated[list[str] | None, typer.Option("--split", help="Split to judge on; may be repeated.")] = None,
    resamples: Annotated[int, typer.Option("--resamples", help="Bootstrap resamples.", min=100)] = 2000,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="CSV of another model's predictions on the same films.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the bundle's card anew, with these figures.")] = False,
    as_json: Json = False,
) -> None:
    """Print AUROC, sensitivity, specificity and calibration error with 95 % intervals, by source and group."""
    from pacs import modelling

    modelling.evaluate(
        bundle,
        manifest,
        splits=splits or ["test"],
        resamples=resamples,
        reference=reference,
        as_json=as_json,
        card=" ".join(["sangloc", *sys.argv[1:]]).removesuffix(" --card") if card else None,
    )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of sangloc train; the first is the base.")],
    *,
    manifest: Annotated[Path, typer.Option("--manifest", help="manifest.csv that they were trained on.")],
    keep: Annotated[Path | None, typer.Option("--keep", help="Bundle whose card shows the table.")] = None,
) -> None:
    """Print what each step of training brought, on films that no run was fitted on: val and a fold left out."""
    from pacs import modelling

    modelling.compare(runs, manifest, keep=keep)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(installed("sangloc"))


def known_commands() -> set[str]:
    """The names of all commands."""
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
