"""`sangloc models`: models from elsewhere, how good they are here, and which of them is at work where."""

# ruff: noqa: PLC0415 - imports inside commands keep --help fast

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pacs.commandline import Config, Data, Json, actor, load

if TYPE_CHECKING:
    from pacs.registry import Registry
    from pacs.settings import Settings
    from storage.activations import Activation
    from storage.database import Database
    from storage.models import Version

__all__ = ["app"]

app = typer.Typer(
    help="Models from elsewhere: import, judge on the site's own films, activate, run in shadow, roll back.",
    no_args_is_help=True,
)

Model = Annotated[str, typer.Argument(help="NAME@VERSION, or NAME where it has one version.", metavar="MODEL")]
Site = Annotated[str, typer.Option("--site", help="Name of the site in the settings; without it all sites.")]
Manifest = Annotated[
    Path,
    typer.Argument(help="CSV of the site's labelled films: image, label_abnormal, split.", exists=True, dir_okay=False),
]
Splits = Annotated[list[str], typer.Option("--split", help="Split of the manifest; may be repeated.")]


@contextlib.contextmanager
def _at_hand(config: Path | None, data: Path | None) -> Iterator[tuple[Settings, Database, Registry]]:
    """Settings, database and registry of the system."""
    from pacs import parts
    from pacs.launch import database_at_hand
    from pacs.registry import Registry

    with (
        database_at_hand(load(config, data=data)) as settings,
        contextlib.closing(parts.database(settings, "models")) as database,
    ):
        cache = settings.data.absolute() / "cache" / "bundles"
        yield settings, database, Registry(database, parts.object_store(settings), cache, actor())


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or zip of a MONAI bundle, checkpoint of a DenseNet (torchxrayvision's, CheXNet's),"
            " an http(s) URL of either file, or 'built-in'.",
            metavar="SOURCE",
        ),
    ],
    *,
    kind: Annotated[
        str, typer.Option("--kind", help="auto, monai, torchxrayvision or torchvision: whose preprocessing it needs.")
    ] = "auto",
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="Names of a checkpoint's outputs in order: A,B,...; an empty one is left out."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Other than the source's own.")] = "",
    version: Annotated[str, typer.Option("--version", help="Other than the source's own.")] = "",
    sha256: Annotated[str, typer.Option("--sha256", help="That the file must have.", metavar="DIGEST")] = "",
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Take a model in. Data only: no code of it is ever run, and it is not at work by that."""
    from typing import cast

    from models.importers.adopting import Kind, Wanted

    given = None if labels is None else tuple(label.strip() for label in labels.split(","))
    wanted = Wanted(kind=cast("Kind", kind), name=name, version=version, labels=given, sha256=sha256)
    with _at_hand(config, data) as (_, _, registry):
        model = registry.import_(source, wanted)
    if as_json:
        typer.echo(json.dumps(_version(model)))
        return
    typer.echo(f"{model.title} imported ({model.origin}): {', '.join(model.findings)}")
    typer.echo(f"It is not at work. Next: sangloc models calibrate {model.title} MANIFEST --site SITE")


@app.command("list")
def list_(config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Show every model, and which is at work where."""
    from pacs import parts
    from storage import activations, models, workers

    with _at_hand(config, data) as (settings, database, _):
        with database.transaction() as connection:
            found, working = models.all_versions(connection), activations.current(connection)
            alive = workers.alive(connection)
        folder = parts.bundle_folder(settings)
    if as_json:
        typer.echo(json.dumps({
            "models": [_version(one) for one in found], "at_work": [_activation(one) for one in working],
            "settings": str(folder), "workers": [{"model": one.model, "problem": one.problem} for one in alive],
        }))  # fmt: skip
        return
    for model in found:
        places = [f"{one.mode} {_at(one.site)}" for one in working if one.title == model.title]
        typer.echo(f"{model.title} ({model.origin}): {', '.join(places) or 'not at work'}")
    if not any(one.mode == "active" and not one.site for one in working):
        typer.echo(f"{folder} (of the settings): active {_at('') if not working else 'at every other site'}")
    for worker in alive:
        typer.echo(f"worker {worker.worker}: {worker.model or 'no model'}" + _after("; ", worker.problem))


@app.command()
def show(model: Model, config: Config = None, data: Data = None, as_json: Json = False) -> None:
    """Show a model: where it is from, how it was judged where, and its card."""
    from pacs.registry import headline
    from storage import activations, models

    with _at_hand(config, data) as (_, database, _), database.transaction() as connection:
        found = models.find(connection, model)
        fits, judged = models.fits(connection, found.model_pk), models.evaluations(connection, found.model_pk)
        past = [one for one in activations.history(connection) if one.title == found.title]
    if as_json:
        facts = {
            **_version(found), "card": found.card, "fits": [_plain(one) for one in fits],
            "evaluations": [_plain(one) for one in judged], "activations": [_activation(one) for one in past],
        }  # fmt: skip
        typer.echo(json.dumps(facts, default=str))
        return
    typer.echo(f"{found.title} ({found.origin}) from {found.source}\nweights {found.weights_sha256}")
    typer.echo(f"imported {found.imported_at:%Y-%m-%d %H:%M} by {found.imported_by}\n{', '.join(found.findings)}")
    for fit in fits:
        typer.echo(f"fitted {_at(fit.site)} on {fit.films} films of {fit.manifest}, by {fit.made_by}, {fit.made_at:%F}")
    for one in judged:
        typer.echo(f"judged {_at(one.site)} on {one.films} films of {one.manifest}, by {one.made_by}, {one.made_at:%F}")
        for line in headline(one):
            typer.echo(f"  {line}")
    for step in past:
        until = f" until {step.ended_at:%Y-%m-%d %H:%M} ({step.ended_by})" if step.ended_at else ""
        typer.echo(f"{step.mode} {_at(step.site)} since {step.made_at:%Y-%m-%d %H:%M} ({step.made_by}){until}")
    typer.echo("\n" + found.card)


@app.command()
def calibrate(
    model: Model, manifest: Manifest, *, splits: Splits = ["val"], site: Site = "",  # noqa: B006 - typer's default
    config: Config = None, data: Data = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Fit probabilities and thresholds of a model on the site's own films. Nothing at work changes by that."""
    with _at_hand(config, data) as (settings, _, registry):
        _known_site(settings, site)
        with _progress() as tell:
            fit = registry.calibrate(model, manifest, splits, site, tell)
    points = sorted((values[0], name) for name, values in fit.fit["operating_points"].items())
    if as_json:
        typer.echo(json.dumps(_plain(fit), default=str))
        return
    typer.echo(f"{model} {_at(site)}, fitted on {fit.films} films, {fit.positives} abnormal. Abnormal is flagged from:")
    for threshold, name in points:
        typer.echo(f"  {name}: {threshold:.3f}")
    typer.echo("Now judge it on films that it was not fitted on: sangloc models evaluate")


@app.command()
def evaluate(
    model: Model, manifest: Manifest, *, splits: Splits = ["test"], site: Site = "",  # noqa: B006 - typer's default
    resamples: Annotated[int, typer.Option("--resamples", help="Bootstrap resamples.", min=100)] = 2000,
    config: Config = None, data: Data = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Judge a model on the site's own films, at the thresholds that were fitted there."""
    from pacs.registry import headline

    with _at_hand(config, data) as (settings, _, registry):
        _known_site(settings, site)
        with _progress() as tell:
            found = registry.evaluate(model, manifest, splits, site, resamples=resamples, tell=tell)
    if as_json:
        typer.echo(json.dumps(_plain(found), default=str))
        return
    own = "" if found.fit_fk else ", at its own thresholds: none were fitted there (sangloc models calibrate)"
    typer.echo(f"{model} {_at(site)}{own}:")
    for line in headline(found):
        typer.echo(f"  {line}")


@app.command()
def activate(
    model: Model, *, site: Site = "",
    shadow: Annotated[bool, typer.Option("--shadow", help="Score and store, but show and flag nothing.")] = False,
    config: Config = None, data: Data = None,
) -> None:  # fmt: skip
    """Put a model to work. Needs thresholds that were fitted, and figures that were measured, on films of the site."""
    from pacs import parts
    from pacs.registry import headline

    with _at_hand(config, data) as (settings, _, registry):
        _known_site(settings, site)
        if shadow:
            typer.echo(f"{registry.shadow(model, site).title} scores in shadow {_at(site)}")
            return
        point = parts.triage_policy(settings).operating_point_of(site)
        found, judged = registry.activate(model, site, point=point)
    typer.echo(f"{found.title} is active {_at(site)}; back with: sangloc models rollback{_after(' --site ', site)}")
    for line in headline(judged):
        typer.echo(f"  {line}")


@app.command()
def withdraw(model: Model, *, site: Site = "", config: Config = None, data: Data = None) -> None:
    """End a model's shadow; its scores stay."""
    with _at_hand(config, data) as (_, _, registry):
        typer.echo(f"{registry.withdraw(model, site).title} scores no longer {_at(site)}")


@app.command()
def rollback(*, site: Site = "", config: Config = None, data: Data = None) -> None:
    """Return to the model, with the thresholds, that was active before; again to go back further."""
    with _at_hand(config, data) as (_, _, registry):
        now = registry.roll_back(site)
    rest = "that of all sites" if site else "that of the settings"
    typer.echo(f"active {_at(site)}: {now.title if now else f'no model of its own, but {rest}'}")


@app.command()
def compare(
    one: Model,
    other: Model,
    *,
    site: Annotated[str | None, typer.Option("--site", help="Only images of this site.")] = None,
    config: Config = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Compare two models on the images that both have scored, such as a shadow with what is active."""
    from dataclasses import asdict

    with _at_hand(config, data) as (_, _, registry):
        found = registry.compare(one, other, site)
    if as_json:
        facts = {**asdict(found), "largest": [pair._asdict() for pair in found.largest], "agreed": found.agreed}
        typer.echo(json.dumps({key: None if value != value else value for key, value in facts.items()}))  # noqa: PLR0124
        return
    typer.echo(f"{found.images} images scored by both")
    if not found.images:
        return
    typer.echo(f"  flagged by both {found.both_flagged}, by neither {found.neither_flagged}")
    typer.echo(f"  only by {one} {found.only_one}, only by {other} {found.only_other}")
    typer.echo(f"  agreement {found.agreed:.3f} (Cohen's kappa {found.kappa:.3f})")
    typer.echo(f"  rank correlation {found.rank_correlation:.3f}, mean difference {found.mean_difference:+.3f}")
    for pair in found.largest:
        typer.echo(f"  {pair.study_uid} {pair.sop_uid}: {pair.one:.3f} and {pair.other:.3f}")


def _known_site(settings: Settings, site: str) -> None:
    from storage.errors import InvalidInput

    names = [one.name for one in settings.sites]
    if site and site not in names:
        raise InvalidInput(f"There is no site {site} in the settings: {', '.join(names) or 'there is none at all'}.")


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from pacs.terminal import progress_bars

    with progress_bars() as bars:
        task = bars.add_task("films", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _version(model: Version) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "weights_sha256": model.weights_sha256,
            "origin": model.origin, "source": model.source, "findings": model.findings,
            "imported_by": model.imported_by, "imported_at": str(model.imported_at)}  # fmt: skip


def _activation(one: Activation) -> dict[str, Any]:
    return {"site": one.site, "mode": one.mode, "model": one.title, "action": one.action, "by": one.made_by,
            "at": str(one.made_at), "ended_at": str(one.ended_at) if one.ended_at else None}  # fmt: skip


def _plain(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)


def _at(site: str) -> str:
    return f"at site {site}" if site else "for all sites"


def _after(separator: str, text: str) -> str:
    return separator + text if text else ""
