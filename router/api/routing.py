"""Which app answers a request, and what the route that it matched needs of the caller."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Scope

from router.api.needs import KEY, Need, need_of
from router.api.routes import inference
from router.api.services import Services


class Routing:
    """Takes the relayed paths past the framework's routing, which tries one pattern after another.

    Whatever is not exactly one of these calls goes to the framework, which has the same routes, and an answer to wrong
    methods and unknown paths; those need a key, so that nobody else learns which paths there are.
    """

    def __init__(self, api: FastAPI, services: Services) -> None:
        self._api: ASGIApp = api
        self._routes = api.router.routes
        self._direct: dict[tuple[str, str], tuple[ASGIApp, Need]] = {
            call: (app, need_of(*call)) for call, app in inference.direct(services).items()
        }

    def __call__(self, scope: Scope) -> tuple[ASGIApp, Need]:
        """The app for this request, and the need of its route."""
        return self._direct.get((scope["method"], scope["path"])) or (self._api, self._matched(scope))

    def _matched(self, scope: Scope) -> Need:
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                return need_of(scope["method"], path_of(route))
        return KEY


def path_of(route: BaseRoute) -> str:
    """The path of a route as it spells it; empty where it has none."""
    return str(getattr(route, "path", ""))
