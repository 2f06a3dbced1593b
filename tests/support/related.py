"""multipart/related answers, taken apart by Python's e-mail parser: another one than ours."""

from __future__ import annotations

from email.parser import BytesParser
from email.policy import HTTP

import httpx


def parts_of(answer: httpx.Response) -> list[tuple[str, bytes]]:
    """Content type (without quotes) and bytes of each part of an answer."""
    assert answer.status_code in (200, 206), answer.text
    whole = b"Content-Type: " + answer.headers["content-type"].encode() + b"\r\n\r\n" + answer.content
    message = BytesParser(policy=HTTP).parsebytes(whole)
    assert message.is_multipart(), answer.text[:200]
    return [
        (str(part["content-type"]).replace('"', ""), part.get_payload(decode=True)) for part in message.iter_parts()
    ]
