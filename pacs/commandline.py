"""What all commands have in common: options, settings with logging, and who is at the keyboard."""

# ruff: noqa: PLC0415 - imports inside functions keep --help fast

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pacs.settings import Settings

__all__ = ["Config", "Data", "Json", "actor", "load"]

Config = Annotated[Path | None, typer.Option("--config", help="TOML file of settings.", metavar="FILE")]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of everything that sangloc keeps.", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load(config: Path | None = None, **flags: object) -> Settings:
    """The settings, checked, with logging set up; a flag's name is the setting's path with `__` for the dot."""
    from pacs import parts
    from pacs.settings import refuse_unsafe
    from pacs.sources import load as read

    settings = read(config=config, flags={name.replace("__", "."): value for name, value in flags.items()}).settings
    refuse_unsafe(settings)
    parts.check(settings)
    _log_to_stderr(settings)
    return settings


def actor() -> str:
    """Who works at this terminal, for the audit log."""
    import getpass

    try:
        return f"command line: {getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in containers
        return "command line"


def _log_to_stderr(settings: Settings) -> None:
    import logging

    import structlog

    renderer: Any = structlog.processors.JSONRenderer()
    if settings.log.format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log.level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
