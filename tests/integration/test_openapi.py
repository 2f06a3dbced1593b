"""The OpenAPI description is true: schemathesis asks the running server what it allows and what it does not."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from archive import Archive
from http_server import client, problem, serving
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from stow import make_ingest

from api.config import ApiConfig
from storage import set_aside

SECRET = "a-secret-of-enough-characters"
_VALUES = {"frames": "1", "place": "7FE00010", "aet": "VIEWER"}
METHODS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture
def address(archive: Archive) -> Iterator[str]:
    """A server with tokens over an archive with something of everything."""
    archive.worker()
    archive.score(archive.add(study_uid="1.2.840.1", series_uid="1.2.840.2", sop_uid="1.2.840.3"), 0.9, Nodule=0.7)
    archive.add(modality="CT", not_eligible="CT is not read by the model")
    kept = archive.add(content=b"kept")
    with archive.database.transaction() as connection:
        set_aside.add(
            connection, kind="conflict", reason="other bytes", sop_uid="1.2.840.3", object_key=kept.object_key,
            object_size=4, dataset_offset=0, sha256=b"\0" * 32, source_aet="XRAY1", source_address="127.0.0.1",
        )  # fmt: skip
    ingest = make_ingest(archive.database, archive.store)
    with serving(archive.database, archive.store, ApiConfig(tokens={"tests": SECRET}), ingest) as served:
        yield served
    ingest.close()


@pytest.mark.timeout(900)  # every operation, a dozen times
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_what_is_described_is_what_is_served(address: str, mode: GenerationMode) -> None:
    # A cursor of the right shape that is not ours is a 400: no pattern can tell.
    checks = {"positive_data_acceptance": {"expected-statuses": ["2xx", 400, 401, 404, 409, 422]}}
    config = SchemathesisConfig.from_dict({"checks": checks})
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", config=config)
    headers = {"Authorization": f"Bearer {SECRET}"}
    for found in schema.exclude(path="/api/worklist/events").get_all_operations():  # that one never ends

        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=found.ok().as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers, timeout=20)

        with contextlib.suppress(Unsatisfiable):  # nothing about it can be wrong
            ask()


def test_every_refusal_is_described_as_a_problem(address: str) -> None:
    with client(address) as http:
        paths = http.get("/openapi.json").json()["paths"]
    operations = [
        (path, method, one) for path, both in paths.items() for method, one in both.items() if method in METHODS
    ]
    assert len(operations) > 15
    for path, method, operation in operations:
        assert operation["description"], path
        for status, response in operation["responses"].items():
            if status.startswith("4"):
                told = {"application/problem+json"} | (
                    {"application/dicom+json", "application/dicom+xml"} & set(response["content"])
                )
                assert set(response["content"]) == told, (path, method, status)
        if "security" in operation:
            assert "401" in operation["responses"], path


@pytest.mark.parametrize("uid", ["1..2", "01.2", "1.2.x", "1" * 65, "%2e%2e", "1.2%00", "1.2%0a", "%F0%9F%92%A9"])
def test_a_malformed_uid_is_a_bad_request_everywhere_under_dicomweb(address: str, uid: str) -> None:
    """PS3.18 8.5 has 400 for it; whichever UID of a path it is."""
    asked = 0
    with client(address, SECRET) as http:
        for path, operations in http.get("/openapi.json").json()["paths"].items():
            places = re.findall(r"\{(\w*uid)\}", path)
            if not path.startswith("/dicom-web/") or not places:
                continue
            for place in places:
                whole = re.sub(
                    r"\{(\w+)\}", lambda found: _VALUES.get(found[1], "1.2.840.3"), path.replace(f"{{{place}}}", uid)
                )
                for method in METHODS & operations.keys():
                    answer = http.request(
                        method, whole, content=b"[{}]", headers={"Content-Type": "application/dicom+json"}
                    )
                    told = problem(answer, 400)
                    assert told["errors"] == [{"where": f"path.{place}", "message": told["errors"][0]["message"]}], (
                        whole
                    )  # type: ignore[index]
                    asked += 1
    assert asked > 40


def test_the_documentation_lists_every_resource_and_no_other(address: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    told = set(re.findall(r"^\| `([A-Z]+ /\S*)` \|", text, re.MULTILINE))
    with client(address) as http:
        paths = http.get("/openapi.json").json()["paths"]
    assert told == {f"{method.upper()} {path}" for path, both in paths.items() for method in both if method in METHODS}
