"""What FastAPI handlers ask for: the services, a configured model, a small JSON body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError

from router.api.body import MIB, read_body
from router.api.exchange import configured_model
from router.api.services import Services
from router.errors import InvalidRequest

_Body = TypeVar("_Body", bound=BaseModel)


def services_of(request: Request) -> Services:
    """The services of the app that this request came to."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


def model_in_path(alias: str, services: ServicesDep) -> str:
    """The model that the path names. Raises ModelNotFound."""
    return configured_model(services.settings, alias)


ModelInPath = Annotated[str, Depends(model_in_path)]


def body_of(schema: type[_Body]) -> Callable[[Request], Awaitable[_Body]]:
    """Reads a body of this schema, whatever its content type: `curl -d` calls JSON a form.

    Raises InvalidRequest that names the field, and what `read_body` raises.
    """

    async def read(request: Request) -> _Body:
        services = services_of(request)
        with services.budget.hold() as hold:
            limit = services.settings.api.max_body_mb * MIB
            raw = await read_body(request.scope, request.receive, hold, limit=limit)
        try:
            return schema.model_validate_json(raw)
        except ValidationError as error:
            raise _refused(schema, error) from None

    return read


def _refused(schema: type[BaseModel], error: ValidationError) -> InvalidRequest:
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    what = f"{field}: {first['msg']}" if field else first["msg"]
    known = ", ".join(schema.model_fields)
    return InvalidRequest(f"{what}. Expected a JSON object with: {known}.", param=field or None)
