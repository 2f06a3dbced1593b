"""The query parameters of pictures: viewport, window, quality, annotation (PS3.18 8.3.5)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, HTTPException, Query

from api.rendering import Function, Picture

__all__ = ["Asked"]

_FUNCTIONS: dict[str, Function] = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_MOST_PIXELS = 8192  # of a side of a viewport


async def _asked(
    viewport: Annotated[str | None, Query(max_length=100, description="width,height[,x,y,width,height]")] = None,
    window: Annotated[str | None, Query(max_length=100, description="center,width,function")] = None,
    quality: Annotated[int, Query(ge=1, le=100, description="of JPEG")] = 90,
    annotation: Annotated[str | None, Query(max_length=100, description="none is burnt in, whatever is asked")] = None,
) -> Picture:
    """The picture that the query parameters ask for (PS3.18 8.3.5)."""
    if annotation is not None and not set(annotation.split(",")) <= {"patient", "technique", ""}:
        raise HTTPException(400, "annotation is patient, technique or both")
    asked: dict[str, Any] = {"quality": quality}
    if viewport is not None:
        asked |= _viewport(viewport)
    if window is not None:
        asked |= _window(window)
    return Picture(**asked)


Asked = Annotated[Picture, Depends(_asked)]
"""The picture of the query; format and frame are left to the route."""


def _viewport(text: str) -> dict[str, Any]:
    """Size of the picture, and which region of the image it shows; empty members are left to the image."""
    members = text.split(",")
    numbers = [_number(one) for one in members]
    if len(members) not in (2, 6) or None in numbers[:2] or not all(1 <= (n or 0) <= _MOST_PIXELS for n in numbers[:2]):
        raise HTTPException(400, f"viewport is width,height or width,height,x,y,width,height; sides to {_MOST_PIXELS}")
    found: dict[str, Any] = {"viewport": (int(numbers[0] or 1), int(numbers[1] or 1))}
    if any(number is not None for number in numbers[2:]):
        if 0 in numbers[4:] or min(numbers[2] or 0, numbers[3] or 0) < 0:
            raise HTTPException(400, "the region of a viewport lies in the image and has an extent")
        found["region"] = tuple(numbers[2:])
    return found


def _window(text: str) -> dict[str, Any]:
    center, width, function = (*text.split(","), "", "", "")[:3]
    known = _FUNCTIONS.get(function.strip().lower() or "linear")
    numbers = _number(center), _number(width)
    if text.count(",") not in (1, 2) or known is None or None in numbers or not (numbers[1] or 0) > 0:
        raise HTTPException(400, "window is center,width,function with linear, linear-exact or sigmoid")
    if known == "LINEAR" and (numbers[1] or 0) < 1:
        raise HTTPException(400, "a linear window is at least 1 wide (PS3.3 C.11.2.1.2.1)")
    return {"center": numbers[0], "width": numbers[1], "function": known}


def _number(text: str) -> float | None:
    """A decimal number of reasonable size; None for an empty member."""
    text = text.strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not -1e9 <= number <= 1e9:  # also no number at all
        raise HTTPException(400, f"{text[:40]!r} is not a number that makes sense here")
    return number
