"""Prices on the paths of any ASGI application, from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._asgi import (
    Call,
    HTTPException,
    JSONResponse,
    method_of,
    mount_of,
    raw_path,
    send_page,
    serve,
)
from ._paywall import PAYMENTS_PATH, Price, below, is_builtin
from ._routes import Routes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ._asgi import App, Message, Receive, Scope, Send
    from ._routes import Route
    from .asgi import Paywall


class WrappedCall(Call):
    """A call to an application that wrap() prices from outside."""

    def __init__(self, routes: Sequence[Route], methods: Sequence[str], *parts: Any) -> None:
        self._names = {route.value: route.name for route in routes}
        self._methods = methods
        super().__init__(*parts)

    def route_prices(self) -> Sequence[Price]:
        return list(self._names)

    def name(self, price: Price) -> tuple[str, Sequence[str]]:
        return self._names[price], self._methods


class Wrapped:
    """Any ASGI application with prices on some of its paths."""

    def __init__(self, paywall: Paywall, app: App, routes: Mapping[str, Any]) -> None:
        self._paywall, self._app = paywall, app
        prices = {}
        for route, terms in routes.items():
            given = terms if isinstance(terms, dict) else {"price": terms}
            prices[route] = None if terms is None else Price(paywall, **{"price": None, **given})
        self._routes = Routes(prices)
        for found in self._routes:
            if found.value is not None:
                found.value.named(found.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        raw, path, mount = raw_path(scope), scope["path"], mount_of(scope)
        spellings = {raw, path, below(mount, raw), below(mount, path)}
        routes, method = self._routes.find(spellings), method_of(scope)
        priced = [route for route in routes if route.value is not None]
        meant = [route for route in routes if route.method == method]
        charged = [route for route in priced if route.method == method]
        if not priced or (meant and not charged):
            return await self._pass(scope, receive, send)
        methods = sorted({route.method for route in routes})
        parts = (self._paywall, scope, receive, send)
        call = WrappedCall(charged or priced, methods, *parts)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if not (charged or method == "OPTIONS"):
                call.answer = self._paywall._core.method_not_allowed(methods)
                return
            try:
                is_admitted = await call.enter((charged or priced)[0].value)
            except HTTPException as error:
                # The price function's. No framework stands around it that would answer.
                answer = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
                return await answer(scope, receive, send)
            if is_admitted:
                await self._app(scope, receive, send)

        await serve(call, app)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What has no price. A built-in page is shown where the application has none."""
        path = below(mount_of(scope), scope["path"])
        if not (self._paywall._free_routes and is_builtin(path)):
            return await self._app(scope, receive, send)
        if path.startswith(f"{PAYMENTS_PATH}0x"):
            if await send_page(self._paywall, scope, receive, send):
                return
        is_own: bool | None = None

        async def sent(message: Message) -> None:
            nonlocal is_own
            if message["type"] == "http.response.start":
                is_own = message["status"] != 404 or method_of(scope) != "GET"
            if is_own:
                await send(message)

        await self._app(scope, receive, sent)
        if not is_own:
            await send_page(self._paywall, scope, receive, send)
