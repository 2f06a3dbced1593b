"""An order's document and what is put into it: pure functions over the JSON of `storage.ordered.Order`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import generate_uid

from storage.errors import Conflict
from storage.ordered import OPEN

__all__ = ["Document", "differences", "merged", "numbered", "with_steps"]

Document = dict[str, Any]

_EMPTY: tuple[Any, ...] = ("", None, [])


@dataclass(frozen=True, slots=True)
class _How:
    whole: bool  # what is given is all there is: open steps that are not named are cancelled
    fill: bool  # only what is empty is taken

    def put(self, before: Mapping[str, Any], given: Mapping[str, Any], *but: str) -> Document:
        """The values given, without those at `but`; None takes one away."""
        content = dict(before)
        for key, value in given.items():
            if key in but or (self.fill and content.get(key) not in _EMPTY):
                continue
            if value is None:
                content.pop(key, None)
            else:
                content[key] = value
        return content


def merged(before: Mapping[str, Any], given: Mapping[str, Any], *, whole: bool = False, fill: bool = False) -> Document:
    """The document with the given parts put in; procedures and steps are found by their identifiers.

    Raises:
        Conflict: a part without identifier could be several.
    """
    how = _How(whole, fill)
    content = how.put(before, given, "patient", "procedures")
    if given.get("patient"):
        content["patient"] = how.put(before.get("patient", {}), given["patient"])
    if given.get("procedures"):
        keys = ("procedure_id", "study_uid")
        content["procedures"] = _parts(before.get("procedures", []), given["procedures"], keys, _procedure, how)
    return content


def _procedure(old: Document, new: Document | None, how: _How) -> Document:
    if new is None:
        return {**old, "steps": [_step(step, None, how) for step in old["steps"]]}
    content = how.put(old, new, "steps")
    content["steps"] = old.get("steps", [])
    if new.get("steps"):
        content["steps"] = _parts(content["steps"], new["steps"], ("step_id",), _step, how)
    return content


def _step(old: Document, new: Document | None, how: _How) -> Document:
    if new is not None:
        return how.put(old, new)
    return {**old, "status": "CANCELLED"} if how.whole and old["status"] in OPEN else old


def _parts(
    before: Sequence[Document],
    given: Sequence[Document],
    keys: Sequence[str],
    merge: Callable[[Document, Document | None, _How], Document],
    how: _How,
) -> list[Document]:
    named: dict[int, Document] = {}
    fresh = []
    for part in given:
        at = _position(before, part, keys)
        if at is None:
            fresh.append(merge({}, part, how))
        else:
            named[at] = merge(named.get(at, before[at]), part, how)
    return [named[at] if at in named else merge(old, None, how) for at, old in enumerate(before)] + fresh


def _position(before: Sequence[Document], part: Document, keys: Sequence[str]) -> int | None:
    """Which of the known parts is meant, None for a new one."""
    identified = [key for key in keys if part.get(key)]
    for key in identified:
        for at, old in enumerate(before):
            if old.get(key) == part[key]:
                return at
    if identified or not before:
        return None
    if len(before) > 1:
        raise Conflict(f"There are {len(before)}: say which is meant by its {keys[0]}.")
    return 0


def numbered(content: Document, number: int) -> Document:
    """The document with an identifier for each procedure, study and step that has none; `number` is the order's."""
    procedures = []
    for n, procedure in enumerate(content.get("procedures") or [], 1):
        own = {"procedure_id": f"P{number}-{n}", "study_uid": str(generate_uid(prefix=None))}
        steps = [
            {**step, "step_id": step.get("step_id") or f"S{number}-{n}-{m}"}
            for m, step in enumerate(procedure.get("steps") or [], 1)
        ]
        given = {key: value for key, value in procedure.items() if value not in _EMPTY}
        procedures.append({**procedure, **own, **given, "steps": steps})
    return {**content, "procedures": procedures}


def with_steps(content: Document, status: Callable[[tuple[str, str], str], str]) -> Document:
    """The document with another status of its steps: a function of (procedure ID, step ID) and the status before."""
    procedures = [
        {
            **procedure,
            "steps": [
                {**step, "status": status((procedure["procedure_id"], step["step_id"]), step["status"])}
                for step in procedure["steps"]
            ],
        }
        for procedure in content["procedures"]
    ]
    return {**content, "procedures": procedures}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted path, value before and after of everything that differs, by path; None where there was nothing."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return [(path, old.get(path), new.get(path)) for path in sorted({**old, **new}) if old.get(path) != new.get(path)]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _leaves(item, f"{path}.{n}")
    else:
        yield path, value
