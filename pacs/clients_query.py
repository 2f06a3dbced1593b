"""`sangloc query`: what another archive (or this one) has, from the command line."""

# ruff: noqa: PLC0415 - imports inside commands keep --help fast

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from pacs.clients import Calling, Target, Tls, Token, Web
from pacs.commandline import Config, Data, Json, load

__all__ = ["query"]


class LevelName(StrEnum):
    """What is looked for."""

    patient = "patient"
    study = "study"
    series = "series"
    image = "image"


class RootName(StrEnum):
    """The information model of a C-FIND."""

    study = "study"
    patient = "patient"


def query(
    target: Target,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            help="Attributes by keyword or tag: KEY=VALUE to match (wildcards * and ?, ranges A-B, lists A,B), KEY to"
            " be shown. Example: PatientName='nguyen*' StudyDate=20260101- ModalitiesInStudy StudyDescription",
            metavar="KEY[=VALUE]...",
        ),
    ] = None,
    *,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", "-k", help="A key as an option; may be repeated.", metavar="KEY[=VALUE]"),
    ] = None,
    config: Config = None,
    data: Data = None,
    level: Annotated[LevelName, typer.Option("--level", "-l", help="What is looked for.")] = LevelName.study,
    worklist: Annotated[
        bool, typer.Option("--worklist", help="Scheduled steps of the modality worklist instead, by C-FIND.")
    ] = False,
    root: Annotated[RootName, typer.Option("--root", help="Information model of a C-FIND.")] = RootName.study,
    fuzzy: Annotated[
        bool, typer.Option("--fuzzy", help="Person names by the beginnings of their words, where the peer can.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Most matches.", min=1, max=1_000_000)] = 100,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", help="How long the peer may be silent.", min=0.1, metavar="SECONDS")
    ] = None,
    web: Web = False,
    tls: Tls = False,
    token: Token = "",
    calling: Calling = None,
    as_json: Json = False,
) -> None:
    """Ask a peer what it has, by C-FIND or QIDO-RS: a table, or an array of DICOM JSON.

    Exit status 0: it answered, if only that there is nothing; 1: it did not, or with a failure; 2: asked wrongly.

    For example:

      sangloc query archive PatientName='nguyen*' StudyDate=20260101-

      sangloc query PACS@10.0.4.2:104 -l series -k StudyInstanceUID=1.2.3 -k Modality

      sangloc query https://pacs.example/dicom-web --fuzzy PatientName='an nguyen' --json

      sangloc query RIS@10.0.4.9:104 --worklist Modality=DX ScheduledProcedureStepStartDate=20260101
    """
    from pacs import querying
    from pacs.sending import Call
    from storage.errors import InvalidInput

    call = Call.of(load(config, data=data), target, web=web, tls=tls, token=token, calling=calling)
    if timeout_s is not None:
        call = replace(call, policy=replace(call.policy, timeout_s=timeout_s, connect_timeout_s=timeout_s))
    model = "worklist" if worklist else root.value
    try:
        wanted = querying.Wanted.of([*(keys or []), *(key or [])], level.value, root=model, fuzzy=fuzzy, limit=limit)
        wanted.fits(web=call.web)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
    found = querying.ask(call, wanted)
    if as_json:
        typer.echo(json.dumps(found.matches, ensure_ascii=False))
    else:
        querying.show(found)
    for note in found.notes:
        typer.echo(note, err=True)
    raise typer.Exit(0 if found.answered else 1)
