"""DICOMweb (PS3.18): one file for each service, its router listed here."""

from __future__ import annotations

from fastapi import APIRouter

from api.dicomweb import bulkdata, capabilities, frames, metadata, qido, rendered, stow, ups, upsevents, wado

__all__ = ["ROOT", "ROUTERS"]

ROOT = "/dicom-web"
ROUTERS: tuple[APIRouter, ...] = (
    stow.router,
    wado.router,
    metadata.router,
    rendered.router,
    frames.router,
    bulkdata.router,
    capabilities.router,
    qido.router,
    ups.router,
    upsevents.router,
)
