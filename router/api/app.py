"""The FastAPI app: routes in order of precedence, middleware from the outside in."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware import Middleware

from router import __version__
from router.api import openapi
from router.api.access import AccessMiddleware
from router.api.boundary import Boundary, Identity
from router.api.cors import Cors
from router.api.errors import add_error_handlers
from router.api.routes import inference, live, management, models, monitoring, upstream
from router.api.services import Services


def create_app(services: Services) -> FastAPI:
    """The app, with `services` in `app.state.services`. Starting and stopping them is the caller's."""
    app = FastAPI(
        title="llama-router",
        version=__version__,
        summary="One OpenAI-compatible endpoint in front of every GGUF model you own",
        middleware=_middleware(services),
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        # The framework's own, which looks around for an exporter at every request; ours is router.telemetry.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.services = services
    add_error_handlers(app)
    app.router.routes[:0] = inference.routes(services)
    for module in (live, management, monitoring):
        app.include_router(module.router)
    app.router.routes += upstream.routes(services)
    # Last, since `/v1/models/{model}` takes whatever is left below it.
    app.include_router(models.router)
    openapi.install(app)
    return app


def _middleware(services: Services) -> list[Middleware]:
    """CORS stands before access, since preflights carry no key, and before the boundary, so that no error lacks it."""
    origins = services.settings.api.cors_origins
    cors = Middleware(
        Cors,
        allow_origins=list(origins),
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "request-id", "retry-after", "x-should-retry"],
    )
    return [
        Middleware(Identity),
        *([cors] if origins else []),
        Middleware(Boundary),
        Middleware(AccessMiddleware, services=services),
        Middleware(inference.ShortCut, services=services),
    ]
