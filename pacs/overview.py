"""What `sangloc status` and `sangloc settings` print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import typer

from pacs.launch import READY_FILE, running_pid
from pacs.settings import Settings
from pacs.sources import Entry, Sourced, entries, masked

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["markdown", "settings_text", "show_status"]

_TIMEOUT_S = 5.0


def show_status(settings: Settings, *, as_json: bool) -> int:
    """Print what runs on the data folder and what is wrong with it; 0 when ready, else 1."""
    found = _status(settings)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        for line in _status_lines(found):
            typer.echo(line)
    return 0 if found["status"] == "ready" else 1


def _status(settings: Settings) -> dict[str, Any]:
    pid = running_pid(settings.data)
    if pid is None:
        return {"status": "stopped", "data": str(settings.data)}
    try:
        ready = json.loads((settings.data / READY_FILE).read_text())
        answer = httpx.get(f"{api_address(settings, ready['http'])}/health/ready", timeout=_TIMEOUT_S)
        health = answer.json()
    except FileNotFoundError:
        return {"status": "starting or stopping", "data": str(settings.data), "pid": pid}
    except (httpx.HTTPError, ValueError) as error:
        return {"status": "not ready", "data": str(settings.data), "pid": pid, **ready, "reason": str(error)}
    status = "ready" if answer.status_code == 200 else "not ready"
    return {"data": str(settings.data), "pid": pid, **ready, "parts": health.get("parts", []), "status": status}


def api_address(settings: Settings, port: int) -> str:
    """Where a program on this machine reaches the API."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.http.host, settings.http.host)  # noqa: S104  not bound
    return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{port}"


def _status_lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['status']}: {found['data']}" + (f" (process {found['pid']})" if "pid" in found else "")
    if "dicom" in found:
        yield f"  DICOM port {found['dicom']}, HTTP port {found['http']}"
        for kind, pids in found["pids"].items():
            yield f"  {kind}: {', '.join(map(str, pids)) or 'none'}"
    for part in found.get("parts", []):
        yield f"  {part['name']}: {part['status']}" + (f" ({part['reason']})" if part.get("reason") else "")
    if "reason" in found:
        yield f"  {found['reason']}"


def settings_text(sourced: Sourced, as_json: bool) -> str:
    """Every setting with its value (secrets masked) and source, for people or as JSON."""
    rows = [(entry, masked(sourced.settings, entry), sourced.sources.get(entry.path, "default")) for entry in entries()]
    if as_json:
        return json.dumps({entry.path: {"value": value, "source": source} for entry, value, source in rows}, indent=2)
    widths = [max(len(row[0].path) for row in rows), min(40, max(len(row[1]) for row in rows))]
    return "\n".join(f"{entry.path:<{widths[0]}}  {value:<{widths[1]}}  {source}" for entry, value, source in rows)


def markdown() -> str:
    """The table of docs/configuration.md."""
    settings = Settings()
    lines = ["| setting | environment variable | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{entry.path}` | `{entry.variable}` | {_code(masked(settings, entry))} | {_cell(entry)} |"
        for entry in entries()
    ]
    return "\n".join(lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(entry: Entry) -> str:
    return (entry.info.description or "").replace("|", "\\|") + (" (secret)" if entry.secret else "")
