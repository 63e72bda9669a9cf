"""Which priced route a request means, however its path is spelled."""

from __future__ import annotations

import functools
import posixpath
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_DECODINGS = 3
"""A proxy decodes once, a server once, and some frameworks once more."""
_PLAIN = re.compile(r"(?:/[a-z0-9_~-][a-z0-9_~.-]*)+")


class Route(NamedTuple):
    """A method and a path pattern, and what stands beside them: None for a route that is free."""

    method: str
    pattern: re.Pattern[str]
    name: str
    value: Any


class Routes:
    """The routes that wrap() was given.

    The application that is wrapped may read a path decoded or as it came, with or without its
    dot segments, double slashes, parameters and upper case. It is not known which, so a request is
    priced if any reading of its path is.
    """

    def __init__(self, routes: Mapping[str, Any]) -> None:
        self._routes = [_route(route, value) for route, value in routes.items()]

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def find(self, paths: Iterable[str]) -> list[Route]:
        """What a path means: for each way to read it, the first route of each method."""
        found: dict[str, Route] = {}
        for path in _readings(frozenset(paths)):
            first: dict[str, Route] = {}
            for route in self._routes:
                if route.method not in first and route.pattern.fullmatch(path):
                    first[route.method] = route
            found.update((route.name, route) for route in first.values())
        return list(found.values())


def _route(route: str, value: Any) -> Route:
    method, _, path = route.partition(" ")
    if not method.isalpha() or not path.startswith("/"):
        raise ValueError(f'{route!r} must be a method and a path, as in "POST /api/generate"')
    name = f"{method.upper()} {path}"
    parts = re.split(r"(\{[^{}]*\})", unquote(path))
    pattern = "".join(
        (".+" if part.endswith(":path}") else "[^/]+")
        if part.startswith("{")
        else re.escape(_squeezed(part.casefold()))
        for part in parts
    )
    # One slash at the end makes no difference, as in `_read`.
    return Route(method.upper(), re.compile(pattern.rstrip("/") or "/", re.DOTALL), name, value)


def _read(paths: frozenset[str]) -> frozenset[str]:
    """Every path that a framework may make of these spellings of one path, in lower case and
    without double slashes or a slash at its end."""
    found = set()
    for path in paths:
        if _PLAIN.fullmatch(path):
            found.add(path)
            continue
        for _ in range(_DECODINGS):
            for reading in (path, _cleaned(path)):
                squeezed = _squeezed(reading.casefold())
                found.update((squeezed.rstrip("/") or "/", posixpath.normpath(squeezed or "/")))
            path = unquote(path)
    return frozenset(found)


_readings = functools.lru_cache(1024)(_read)


def _squeezed(path: str) -> str:
    return re.sub("/+", "/", path)


def _cleaned(path: str) -> str:
    """A path without what some frameworks cut off: parameters, a query or fragment that was
    escaped, white space and control characters; and with slashes for backslashes."""
    path = re.split(r"[?#]", path, maxsplit=1)[0].replace("\\", "/")
    return re.sub(r";[^/]*|[\x00-\x20\x7f]", "", path)
