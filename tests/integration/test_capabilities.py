"""The capabilities document of the DICOMweb services (PS3.18 8.9)."""

from __future__ import annotations

from xml.etree import ElementTree

import httpx
import pytest
from http_server import problem

WADL = "{http://wadl.dev.java.net/2009/02}"
RETRIEVED = (
    "",
    "/metadata",
    "/rendered",
    "/thumbnail",
)


@pytest.mark.parametrize(
    ("method", "path"), [("OPTIONS", "/dicom-web"), ("OPTIONS", "/dicom-web/"), ("GET", "/dicom-web/capabilities")]
)
def test_what_can_be_asked_for(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.headers["content-type"] == "application/vnd.sun.wadl+xml"
    resources = ElementTree.fromstring(answer.content).find(f"{WADL}resources")
    assert resources is not None
    assert resources.get("base") == f"{http.base_url}".rstrip("/") + "/dicom-web/"
    methods = {
        (resource.get("path"), one.get("name")): one for resource in resources for one in resource.iter(f"{WADL}method")
    }
    study = "studies/{study_uid}"
    for level in (study, f"{study}/series/{{series_uid}}", f"{study}/series/{{series_uid}}/instances/{{sop_uid}}"):
        for suffix in RETRIEVED:
            assert (level + suffix, "GET") in methods
    assert ("studies", "POST") in methods
    rendered = methods[f"{study}/rendered", "GET"]
    assert {"viewport", "window", "quality"} <= {param.get("name") for param in rendered.iter(f"{WADL}param")}
    assert "image/jpeg" in {one.get("mediaType") for one in rendered.iter(f"{WADL}representation")}


def test_as_json(http: httpx.Client) -> None:
    found = http.options("/dicom-web/", headers={"Accept": "application/json"}).json()
    assert {"studies/{study_uid}/metadata"} <= {one["path"] for one in found["resources"]}
    problem(http.options("/dicom-web/", headers={"Accept": "image/png"}), 406)
