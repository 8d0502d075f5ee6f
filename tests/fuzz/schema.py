"""The router's own OpenAPI page, taken at its word: what it documents is asked for, and what it answers is compared."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import requests
import schemathesis
from hypothesis.errors import Unsatisfiable
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from router.proxy.complaint import SOURCE
from tests.fuzz.budget import Budget
from tests.fuzz.exchanges import Target, fault_in
from tests.fuzz.outcome import Finding, Kind, Outcome

WORK = "openapi"
_CHECKS = [
    status_code_conformance, content_type_conformance, response_schema_conformance, response_headers_conformance,
]  # fmt: skip
_MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
_DEADLINE = 30.0
EACH = 6  # requests to an operation before it is the next one's turn


async def fuzz(target: Target, seed: int, budget: Budget, *, each: int = EACH) -> Outcome:
    """Ask for each documented operation in turn, in ways that are right and in ways that are wrong."""
    return await asyncio.to_thread(_fuzz, target, seed, budget, each)


def _fuzz(target: Target, seed: int, budget: Budget, each: int) -> Outcome:
    outcome = Outcome()
    url = f"http://127.0.0.1:{target.port}"
    headers = {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    document = httpx.get(f"{url}/openapi.json", headers=headers, timeout=_DEADLINE).json()
    operations = list(_operations(document))
    with requests.Session() as session:
        session.headers.update(headers)
        for number in budget:
            turn, which = divmod(number, len(operations))
            mode = _MODES[turn % len(_MODES)]
            strategy = operations[which].as_strategy(generation_mode=mode)
            _ask(strategy, url, session, seed=f"{seed}/{number}", each=each, outcome=outcome)
    return outcome


def _operations(document: dict[str, Any]) -> Iterator[Any]:
    """All but the endless streams, which have no answer to wait for."""
    for methods in document["paths"].values():
        for method, operation in list(methods.items()):
            if list(operation["responses"].get("200", {}).get("content", ())) == ["text/event-stream"]:
                del methods[method]
    results: Iterator[Any] = schemathesis.openapi.from_dict(document).get_all_operations()
    yield from (result.ok() for result in results)


def _ask(strategy: Any, url: str, session: requests.Session, *, seed: str, each: int, outcome: Outcome) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=each, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(case=strategy)
    def ask(case: Any) -> None:
        outcome.tries[WORK] += 1
        outcome.findings += _findings(case, url, session, outcome)

    with contextlib.suppress(Unsatisfiable):  # what takes nothing cannot be asked wrongly
        ask()


def _findings(case: Any, url: str, session: requests.Session, outcome: Outcome) -> Iterator[Finding]:
    try:
        response = case.call(base_url=url, session=session, timeout=_DEADLINE)
    except requests.Timeout:
        yield Finding(Kind.HANG, WORK, "no answer", case.as_curl_command())
        return
    except requests.ConnectionError as error:
        yield Finding(Kind.CRASH, WORK, f"no answer: {error}", case.as_curl_command())
        return
    source = "".join(response.headers.get(SOURCE, ()))
    if fault := fault_in(response.status_code, source, response.content, outcome):
        yield Finding(Kind.FAULT, WORK, fault, case.as_curl_command())
    try:
        case.validate_response(response, checks=_CHECKS)
    except FailureGroup as group:
        told_of = "; ".join(f"{failure.title}: {failure.message}" for failure in group.exceptions)
        yield Finding(Kind.BREACH, WORK, told_of, case.as_curl_command())
