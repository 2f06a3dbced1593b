"""Workitems in the DICOM JSON model, and a client that speaks of them."""

from __future__ import annotations

import itertools
from typing import Any

import httpx

KIND = "application/dicom+json"
_numbers = itertools.count(1)
ALL, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"


def new_uid() -> str:
    return f"1.2.826.0.1.3680043.9999.7.{next(_numbers)}"


def code(value: str, scheme: str = "99TEST") -> dict[str, Any]:
    return {
        "00080100": {"vr": "SH", "Value": [value]},
        "00080102": {"vr": "SH", "Value": [scheme]},
        "00080104": {"vr": "LO", "Value": [value.title()]},
    }


def workitem(*studies: str, analysis: bool = False, instances: tuple[str, ...] = (), **over: Any) -> dict[str, Any]:
    """A new workitem; attributes by `t` and their tag, None leaves one away."""
    references = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in instances]
    inputs = [
        {
            "0020000D": {"vr": "UI", "Value": [study]},
            "00081199": {"vr": "SQ", "Value": references},
        }
        for study in studies
    ]
    made = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Nguyễn^An"}]},
        "00100020": {"vr": "LO", "Value": ["P1"]},
        "00404005": {"vr": "DT", "Value": ["20260102101500+0700"]},
        "00404018": {"vr": "SQ", "Value": [code("CXR-TRIAGE", "99SANGLOC") if analysis else code("REPORT")]},
        "00404021": {"vr": "SQ", "Value": inputs},
        "00404041": {"vr": "CS", "Value": ["READY"]},
        "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
        "00741200": {"vr": "CS", "Value": ["HIGH"]},
        "00741204": {"vr": "LO", "Value": ["Read the chest"]},
    }
    made |= {name[1:]: value for name, value in over.items()}
    return {tag: value for tag, value in made.items() if value is not None}


def performed() -> dict[str, Any]:
    """What a performer says before it completes."""
    item = {
        "00404019": {"vr": "SQ", "Value": [code("REPORT")]},
        "00404028": {"vr": "SQ", "Value": [code("STATION")]},
        "00404033": {"vr": "SQ"},
        "00404050": {"vr": "DT", "Value": ["20260102101600"]},
        "00404051": {"vr": "DT", "Value": ["20260102101700"]},
    }
    return {"00741216": {"vr": "SQ", "Value": [item]}}


class Manager:
    """The workitems of one server."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def send(self, method: str, path: str, model: Any = None, **parameters: str) -> httpx.Response:
        body = {} if model is None else {"json": [model], "headers": {"Content-Type": KIND}}
        return self.http.request(method, f"/dicom-web/workitems{path}", params=parameters or None, **body)

    def create(self, model: dict[str, Any], uid: str = "") -> str:
        uid = uid or new_uid()
        answer = self.send("POST", "", model, workitem=uid)
        assert answer.status_code == 201, answer.text
        return uid

    def get(self, uid: str) -> dict[str, Any]:
        answer = self.send("GET", f"/{uid}")
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()
        return found

    def state(self, uid: str) -> str:
        return self.get(uid)["00741000"]["Value"][0]

    def change(self, uid: str, state: str, transaction: str = "1.2.3") -> httpx.Response:
        return self.send(
            "PUT",
            f"/{uid}/state",
            {"00741000": {"vr": "CS", "Value": [state]}, "00081195": {"vr": "UI", "Value": [transaction]}},
        )

    def find(self, **parameters: str) -> list[str]:
        answer = self.send("GET", "", **parameters)
        assert answer.status_code in (200, 204), answer.text
        return [one["00080018"]["Value"][0] for one in answer.json()] if answer.status_code == 200 else []
