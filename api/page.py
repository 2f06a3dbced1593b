"""The worklist page: files as they lie in `api/web`, nothing from another site."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

__all__ = ["mount", "router"]

router = APIRouter(include_in_schema=False)

_WEB = Path(__file__).parent / "web"
_REVALIDATE = {"Cache-Control": "no-cache"}  # a new version shows at once; the files hold no patient's data


@router.get("/")
async def page() -> Response:
    """The worklist page."""
    return FileResponse(_WEB / "index.html", headers=_REVALIDATE)


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: dict[str, object]) -> Response:  # type: ignore[override]
        response = await super().get_response(path, scope)
        response.headers.update(_REVALIDATE)
        return response


def mount(app: FastAPI) -> None:
    """Serve the page's files under /web."""
    app.mount("/web", _Files(directory=_WEB), name="web")
