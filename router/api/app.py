"""The app: a front, and behind it the relay or FastAPI, its routes in order of precedence."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from router import __version__
from router.api import openapi
from router.api.boundary import Boundary, Front
from router.api.errors import add_error_handlers
from router.api.routes import inference, live, management, models, monitoring, pages, upstream
from router.api.routing import Routing
from router.api.services import Services
from router.telemetry.access_log import AccessLog


def create_app(services: Services, access_log: AccessLog | None = None) -> Front:
    """What is served, by `HttpProtocol`. Starting and stopping the services is the caller's.

    Args:
        access_log: gets a line for each request; None = nobody does.
    """
    return Front(Routing(create_api(services), services), services, access_log)


def create_api(services: Services) -> FastAPI:
    """The framework's part, which knows every route; with `services` in `app.state.services`."""
    app = FastAPI(
        title="llama-router",
        version=__version__,
        summary="One OpenAI-compatible endpoint in front of every GGUF model you own",
        middleware=[Middleware(Boundary)],
        redirect_slashes=False,
        openapi_url=None,  # its pages take scripts from elsewhere, and are made on the event loop; ours are `pages`
        # The framework's own, which looks around for an exporter at every request; ours is router.telemetry.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.services = services
    add_error_handlers(app)
    openapi.install(app)
    # One flat list, in place of what the framework would nest: `needs` tells who may call which.
    app.router.routes[:0] = inference.routes(services)
    for module in (live, management, monitoring):
        app.router.routes += module.router.routes
    app.router.routes += [*pages.routes(app), *upstream.routes(services)]
    # Last, since `/v1/models/{model}` takes whatever is left below it.
    app.router.routes += models.router.routes
    return app
