"""The capabilities document: what the DICOMweb services here can do, made from their routes (PS3.18 8.9)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

import orjson
from fastapi import APIRouter, Request, Response

from api.context import Actor
from api.dicomweb.bodies import tag_of
from api.dicomweb.media import Offer, accepted, choose
from api.dicomweb.resources import get, origin
from api.problems import MEDIA_TYPE, responses

__all__ = ["OFFERS", "router"]

router = APIRouter(tags=["DICOMweb"])

_WADL = Offer("application/vnd.sun.wadl+xml", aliases=("application/xml",))
_JSON = Offer("application/json")
OFFERS = (_WADL, _JSON)
_NAMESPACE = "http://wadl.dev.java.net/2009/02"
_DESCRIBED: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        200: {"description": "The document", "content": {_WADL.kind: {}, _JSON.kind: {}}},
        304: {"description": "The client has this already"},
        **responses(401, 406),
    },
}


@router.options("", **_DESCRIBED)
@router.options("/", include_in_schema=False, **_DESCRIBED)
async def options(request: Request, _: Actor) -> Response:
    """What can be asked for here, as a WADL or JSON document."""
    return _document(request)


@get(router, "/capabilities", **_DESCRIBED)
async def capabilities(request: Request, _: Actor) -> Response:
    """The same for those who cannot ask by OPTIONS."""
    return _document(request)


def _document(request: Request) -> Response:
    offer, _ = choose(accepted(request), OFFERS)
    root = re.sub(r"/(capabilities)?$", "", request.url.path)
    base = f"{origin(request)}{root}/"
    found = sorted(_methods(request, root), key=lambda one: (one["path"], one["method"]))
    body = orjson.dumps({"base": base, "resources": found}) if offer == _JSON else _wadl(base, found).encode()
    return Response(body, headers={"ETag": tag_of(body)}, media_type=offer.kind)


def _methods(request: Request, root: str) -> Iterator[dict[str, Any]]:
    """Each method of each resource with parameters and media types, from the OpenAPI document."""
    for path, methods in request.app.openapi()["paths"].items():
        if not path.startswith(f"{root}/"):
            continue
        for method, described in methods.items():
            given = {status: sorted(_kinds(one)) for status, one in described["responses"].items()}
            yield {
                "path": path.removeprefix(f"{root}/"),
                "method": method.upper(),
                "summary": described.get("description", "").split("\n", 1)[0],
                "parameters": [one["name"] for one in described.get("parameters", ()) if one["in"] == "query"],
                "takes": sorted(_kinds(described.get("requestBody", {}))),
                "gives": {status: kinds for status, kinds in given.items() if kinds},
            }


def _kinds(described: dict[str, Any]) -> list[str]:
    return [kind for kind in described.get("content", {}) if kind != MEDIA_TYPE]


def _wadl(base: str, found: list[dict[str, Any]]) -> str:
    """Web Application Description Language, one resource element a path."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<application xmlns="{_NAMESPACE}">',
        f"<resources base={quoteattr(base)}>",
    ]
    for path in dict.fromkeys(one["path"] for one in found):
        lines.append(f"<resource path={quoteattr(path)}>")
        lines += [
            f'<param name={quoteattr(name)} style="template" required="true"/>' for name in re.findall(r"{(\w+)}", path)
        ]
        lines += [line for one in found if one["path"] == path for line in _method(one)]
        lines.append("</resource>")
    return "\n".join([*lines, "</resources>", "</application>", ""])


def _method(one: dict[str, Any]) -> Iterator[str]:
    yield f"<method name={quoteattr(one['method'])}>"
    yield f'<doc xml:lang="en" title={quoteattr(one["summary"])}/>'
    yield "<request>"
    yield from (f'<param name={quoteattr(name)} style="query"/>' for name in one["parameters"])
    yield from (f"<representation mediaType={quoteattr(kind)}/>" for kind in one["takes"])
    yield "</request>"
    for status, kinds in one["gives"].items():
        yield f"<response status={quoteattr(status)}>"
        yield from (f"<representation mediaType={quoteattr(kind)}/>" for kind in kinds)
        yield "</response>"
    yield "</method>"
