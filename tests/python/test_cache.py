"""Shared caches in front of a paid service: what one has paid for is nobody else's."""

import sys
from collections.abc import Iterator

import pytest
from edge import Service, nginx, service, varnish
from support import free_port

PYTHON = [sys.executable, "-m"]
KINDS = {
    "flask": [*PYTHON, "gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}"]
    + ["edge_flask_app:app"],
    "fastapi": [*PYTHON, "uvicorn", "--port", "{port}", "edge_asgi_app:app"],
}


@pytest.fixture(scope="module", params=[f"{k} {c}" for k in KINDS for c in ("varnish", "nginx")])
def cached(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service, reached through a cache."""
    kind, cache = request.param.split()
    directory, inner, port = tmp_path_factory.mktemp("cached"), free_port(), free_port()
    command = [part.format(port=inner) for part in KINDS[kind]]
    with service(command, directory, inner) as shop:
        if cache == "varnish":
            with varnish(directory, port, inner):
                yield shop.at(port)
        else:
            http = f"proxy_cache_path {directory}/kept keys_zone=one:1m;"
            server = (
                f"location / {{ proxy_pass http://127.0.0.1:{inner}; proxy_cache one; "
                "proxy_cache_valid any 1m; add_header X-Cache $upstream_cache_status; }"
            )
            with nginx(directory, port, server, http):
                yield shop.at(port)


PATHS = ["/api/items/{n}?q=1", "/api/typed/text/{n}", "/api/stream?n={n}"]


@pytest.mark.parametrize("path", PATHS)
def test_what_was_paid_for_is_never_given_to_a_stranger(cached: Service, path: str) -> None:
    target = path.format(n="stranger")
    headers = cached.signed("GET", target)
    paid = cached.call("GET", target, None, headers)
    assert paid.status == 200
    for _ in range(2):
        stranger = cached.call("GET", target)
        assert stranger.status == 402, stranger
        assert "x-agirails-receipt" not in stranger.headers
    # Nor is a repeat, which comes from the paywall's own store.
    again = cached.call("GET", target, None, headers)
    assert (again.status, again.body) == (200, paid.body)
    assert cached.call("GET", target).status == 402


@pytest.mark.parametrize("path", PATHS)
def test_a_402_that_was_seen_before_keeps_nobody_from_paying(cached: Service, path: str) -> None:
    target = path.format(n="asked-first")
    unpaid = [cached.call("GET", target) for _ in range(2)]
    assert [reply.status for reply in unpaid] == [402, 402]
    # Each was asked of the service, so a price that changes is seen at once.
    assert len({reply.json["requestId"] for reply in unpaid}) == 2
    assert cached.pay("GET", target).status == 200


def test_two_who_paid_get_two_answers(cached: Service) -> None:
    target = "/api/items/two?q=1"
    first, second = cached.pay("GET", target), cached.pay("GET", target)
    assert (first.status, second.status) == (200, 200)
    assert first.json["unique"] != second.json["unique"]
    assert first.headers["x-agirails-tx-id"] != second.headers["x-agirails-tx-id"]


def test_what_the_service_caches_itself_stays_private(cached: Service) -> None:
    """A receipt page names one payment alone, and may not be stored under another's name."""
    target, tx_id = "/api/items/page?q=1", cached.fund()
    page = f"/api/payments/{tx_id}"
    before = cached.call("GET", page)
    assert cached.pay("GET", target, tx_id=tx_id).status == 200
    after = cached.call("GET", page)
    assert before.status != 200 or before.body != after.body
    assert after.status == 200, after
