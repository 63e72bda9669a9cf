"""The paywall's middleware for FastAPI and Starlette, whose routers tell which endpoint they found."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from ._asgi import Call, method_of, mount_of, send_page, serve
from ._paywall import BUILTIN_PATHS, MARK, PAYMENTS_PATH, below, dearest, is_builtin

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from ._asgi import App, Receive, Scope, Send
    from ._paywall import Price
    from .asgi import Paywall

# Of endpoints that do not say which they answer.
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


class Middleware:
    """What `init_app` puts around a FastAPI or Starlette application."""

    def __init__(self, app: App, paywall: Paywall, application: Any) -> None:
        self._app, self._paywall, self._application = app, paywall, application
        self.learned: dict[tuple[int, str], list[AppRoute]] = {}
        self._own: set[str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                self._paywall._check_routes()
            except TypeError as error:
                await receive()
                return await send({"type": "lifespan.startup.failed", "message": str(error)})
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._own is None:
            self.learn()
        path = below(mount_of(scope), scope["path"])
        if self._paywall._free_routes and is_builtin(path) and not is_own(path, self._own or ()):
            if path == BUILTIN_PATHS[0]:
                self._name_all()
            if await send_page(self._paywall, scope, receive, send):
                return
        await serve(RoutedCall(self, self._paywall, scope, receive, send), self._app)

    def priced(self) -> Iterator[tuple[str, AppRoute, list[Price]]]:
        """The application's routes that are charged for."""
        for route in app_routes(self._application.routes):
            for method in sorted(route.methods or _METHODS):
                prices = route.prices(method, self._paywall)
                if prices and method not in ("HEAD", "OPTIONS"):
                    yield method, route, prices

    def learn(self) -> None:
        """Looks up which of the application's routes are charged for."""
        self._paywall._check_routes()
        self.learned = {}
        self._own = {route.path for route in app_routes(self._application.routes)}
        for method, route, prices in self.priced():
            for price in prices:
                # A price lives as long as the application: an id stays its own.
                self.learned.setdefault((id(price), method), []).append(route)

    def _name_all(self) -> None:
        """Has the price page show what no request has asked for yet."""
        self.learn()
        for method, route, prices in self.priced():
            (dearest(prices) or prices[0]).named(f"{method} {route.path}")


def is_own(path: str, own: Collection[str]) -> bool:
    """Whether the application has a route of its own at a built-in path."""
    if path.startswith(PAYMENTS_PATH):
        return any(f"{route}/".startswith(PAYMENTS_PATH) for route in own)
    return path in own


def is_guarded(paywall: Paywall, application: Any, scope: Scope) -> bool:
    """Whether the paywall says who may make this request: what Paywall.guards returns."""
    if scope["type"] != "http":
        return False  # nothing is charged for there
    path = below(mount_of(scope), scope["path"])
    if paywall._free_routes and is_builtin(path):
        routes = () if application is None else app_routes(application.routes)
        return not is_own(path, {route.path for route in routes})
    return bool(_routed(scope).prices(method_of(scope), paywall))


def _routed(scope: Scope) -> AppRoute:
    """The endpoint that the router found; none before it has run."""
    dependant = getattr(scope.get("route"), "dependant", None)
    return AppRoute("", None, scope.get("endpoint"), dependant)


class RoutedCall(Call):
    """A call to an application whose router tells which endpoint it found."""

    def __init__(self, middleware: Middleware, *parts: Any) -> None:
        self._middleware = middleware
        self._found: tuple[Any, Sequence[Price]] = (None, ())
        super().__init__(*parts)

    def route_prices(self) -> Sequence[Price]:
        endpoint = self.scope.get("endpoint")
        if endpoint is not self._found[0]:
            prices = _routed(self.scope).prices(method_of(self.scope), self.paywall)
            self._found = (endpoint, prices)
        return self._found[1]

    def name(self, price: Price) -> tuple[str, Sequence[str]]:
        method = method_of(self.scope)
        key = (id(price), method)
        if key not in self._middleware.learned and price in self.route_prices():
            self._middleware.learn()  # a route that was added since
        routes = self._middleware.learned.get(key, [])
        if len(routes) > 1:
            path = below(mount_of(self.scope), self.scope["path"])
            routes = [route for route in routes if _fill(route.path, self.scope) == path] or routes
        if routes:
            return f"{method} {routes[0].path}", sorted(routes[0].methods or _METHODS)
        # A charged function that is called by an endpoint. Nothing in its name may be made up by
        # the caller, neither path nor method: each would be a row of its own.
        route, endpoint = self.scope.get("route"), self.scope.get("endpoint")
        name = getattr(route, "path", "") or getattr(endpoint, "__qualname__", "?")
        return name, sorted(getattr(route, "methods", None) or ())


class AppRoute(NamedTuple):
    """A route of a FastAPI or Starlette application."""

    path: str
    methods: Iterable[str] | None
    endpoint: Any
    dependant: Any

    def prices(self, method: str, paywall: Paywall) -> list[Price]:
        """The prices on its endpoint, a function or a class with a method for each method, and on
        what FastAPI calls for it."""
        functions = [self.endpoint]
        if inspect.isclass(self.endpoint):
            functions.append(getattr(self.endpoint, method.lower(), None))
        dependants = [self.dependant] if self.dependant is not None else []
        for dependant in dependants:
            functions.append(dependant.call)
            dependants.extend(dependant.dependencies)
        prices = (getattr(function, MARK, None) for function in functions)
        own = (price for price in prices if price is not None and price._core is paywall._core)
        return list(dict.fromkeys(own))


def app_routes(routes: Any, prefix: str = "") -> Iterator[AppRoute]:
    """All routes of an application, those of routers and applications inside of it too. What is
    mounted and does not tell its routes is one, without endpoint."""
    try:
        # Routers are included as they are in newer versions, and were copied route by route.
        from fastapi.routing import iter_route_contexts
    except ImportError:
        pass
    else:
        routes = iter_route_contexts(routes)
    for route in routes:
        endpoint, inner = getattr(route, "endpoint", None), getattr(route, "routes", None)
        path = getattr(route, "path", None) or ""
        if endpoint is not None:
            # Without the converters of its parameters.
            path = getattr(route, "path_format", None) or path
            dependant = getattr(route, "dependant", None)
            yield AppRoute(prefix + path, getattr(route, "methods", None), endpoint, dependant)
        elif inner:
            yield from app_routes(inner, prefix + path)
        else:
            yield AppRoute(prefix + path, None, None, None)


def _fill(path: str, scope: Scope) -> str:
    try:
        return path.format_map(scope.get("path_params", {}))
    except (KeyError, ValueError, IndexError):
        return path
