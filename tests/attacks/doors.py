"""The ways in which a caller pays for a call: each must hold what one of them holds."""

import asyncio
from typing import Any, NamedTuple

import httpx

import agirails.httpx
import agirails.requests
from agirails import ACTPClient, AsyncConsumer, Consumer


class Got(NamedTuple):
    """An answer."""

    status: int
    content: bytes
    headers: dict[str, str]


def by_call(client: ACTPClient, url: str, trusted: list[str], **options: Any) -> Got:
    answer = Consumer(client, trusted=trusted).call(url, method="POST", **options)
    return Got(answer.status, answer.content, answer.headers)


def by_requests(client: ACTPClient, url: str, trusted: list[str], **options: Any) -> Got:
    consumer = Consumer(client, trusted=trusted)
    with agirails.requests.session(consumer, **options) as session:
        answer = session.post(url)
        return Got(
            answer.status_code, answer.content, {k.lower(): v for k, v in answer.headers.items()}
        )


def by_httpx(client: ACTPClient, url: str, trusted: list[str], **options: Any) -> Got:
    consumer = Consumer(client, trusted=trusted)
    transport = agirails.httpx.PayingTransport(consumer, **options)
    with httpx.Client(transport=transport, follow_redirects=True) as session:
        answer = session.post(url)
        return Got(answer.status_code, answer.content, dict(answer.headers))


def by_async_httpx(client: ACTPClient, url: str, trusted: list[str], **options: Any) -> Got:
    async def post() -> Got:
        consumer = AsyncConsumer(client, trusted=trusted)
        transport = agirails.httpx.AsyncPayingTransport(consumer, **options)
        async with httpx.AsyncClient(transport=transport, follow_redirects=True) as session:
            answer = await session.post(url)
            return Got(answer.status_code, answer.content, dict(answer.headers))

    return asyncio.run(post())


DOORS = [by_call, by_requests, by_httpx, by_async_httpx]
