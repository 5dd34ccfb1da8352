"""Errors of the HTTP side as problems (RFC 9457)."""

from __future__ import annotations

import json
import logging
import uuid
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fastim.errors import ErrorCode, LimitExceeded, RequestError, StoreError

__all__ = ["MEDIA_TYPE", "add_handlers", "problem"]

log = logging.getLogger("fastim.http")

MEDIA_TYPE: Final = "application/problem+json"
STATUS: Final = {
    ErrorCode.BAD_PACKET: 400,
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNKNOWN_EVENT: 404,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.CONFLICT: 409,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}


def problem(status: int, detail: str, headers: dict[str, str] | None = None, **members: Any) -> Response:
    """Make a problem.

    Args:
        status: The HTTP status; gives the title.
        detail: One sentence about this occurrence.
        headers: More header fields.
        members: Extension members, such as ``code``.
    """
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body = json.dumps(content | members).encode()
    return Response(body, status, headers, MEDIA_TYPE)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, str(error.detail), headers)


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _explain(item: dict[str, Any]) -> dict[str, str]:
    """Name a field and what is wrong with it in the words of one who sends JSON, not of pydantic."""
    if item["type"] == "json_invalid":
        return {"field": "", "reason": f"no JSON: {item['ctx']['error']} (character {item['loc'][-1]})"}
    if item["type"] in ("model_attributes_type", "dict_type"):
        return {"field": "", "reason": "expected an object"}
    field = ".".join(str(part) for part in item["loc"] if part != "body")
    return {"field": field, "reason": item["msg"].removeprefix("Value error, ")}


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if [item["loc"] for item in problems] == [("body",)] and not _is_json(request):
        return problem(415, "send the body as JSON, with Content-Type: application/json")
    errors = [_explain(item) for item in problems]
    first = errors[0] if errors else {"field": "", "reason": "it is malformed"}
    detail = f"{first['field'] or 'the body'}: {first['reason']}"
    return problem(422, detail, code=ErrorCode.BAD_REQUEST.value, errors=errors)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = None
    if isinstance(error, LimitExceeded):
        headers = {"Retry-After": str(-(-error.retry_after_ms // 1000))}
    return problem(STATUS[error.code], error.message, headers, code=error.code.value)


def _store_failed(_: Request, error: Exception) -> Response:
    return problem(503, "the store does not answer; send it again", code=ErrorCode.UNAVAILABLE.value)


def _failed(request: Request, error: Exception) -> Response:
    number = uuid.uuid4().hex[:16]
    log.error("error %s in %s %s", number, request.method, request.url.path, exc_info=error)
    return problem(500, f"internal error {number}", code=ErrorCode.INTERNAL.value, id=number)


def add_handlers(app: FastAPI) -> None:
    """Answer each error of an application with a problem."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(StoreError, _store_failed)
    app.add_exception_handler(Exception, _failed)
