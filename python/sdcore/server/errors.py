"""Errors as the clients of each API read them."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sdcore.errors import InvalidArgumentError, SDCoreError
from sdcore.server.answer import Answer
from sdcore.server.fields import FieldError
from sdcore.server.jobs import BusyError
from sdcore.server.models import UnknownModelError

__all__ = ["HANDLERS", "error_body", "failure"]

_OPENAI = "/v1/"
_CODES = {401: "invalid_api_key", 413: "request_too_large", 503: "unavailable"}


def failure(path: str, status: int, message: str, error: BaseException | None = None) -> Response:
    """OpenAI's form below /v1, the web UI's elsewhere."""
    openai, headers = path.startswith(_OPENAI), {}
    body: dict[str, Any]
    if status == 401:  # browsers ask for a name and a password then
        headers["WWW-Authenticate"] = "Bearer" if openai else "Basic"
    if openai:
        body = {"error": _in_openais(status, message, error)}
    else:
        kind = "HTTPException" if error is None else type(error).__name__
        body = {"error": kind, "detail": message, "body": "", "errors": message}
    return Answer(body, status, headers)


def error_body(error: BaseException) -> dict[str, Any]:
    """What OpenAI's clients are told of it where it is too late for a status."""
    return _in_openais(_status(_OPENAI, error), _message(error), error)


def _in_openais(status: int, message: str, error: BaseException | None) -> dict[str, Any]:
    unknown = isinstance(error, UnknownModelError)
    return {
        "message": message,
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": error.field if isinstance(error, FieldError) else None,
        "code": "model_not_found" if unknown else _CODES.get(status),
    }


def _status(path: str, error: BaseException) -> int:
    if isinstance(error, UnknownModelError):
        return 404
    if isinstance(error, InvalidArgumentError):
        return 400 if path.startswith(_OPENAI) else 422
    return 503 if isinstance(error, BusyError) else 500


def _message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory: try a smaller picture"
    if isinstance(error, SDCoreError):
        return str(error)
    return f"{type(error).__name__}: {error} (a fault of sdcore)"


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, message = request.url.path, error.detail
    if error.status_code == 404:
        message = f"there is no {path} here; docs/server.md lists what there is"
    elif error.status_code == 405:
        message = f"{path} does not take {request.method}"
    return failure(path, error.status_code, message)


def _on_error(request: Request, error: Exception) -> Response:
    path = request.url.path
    return failure(path, _status(path, error), _message(error), error)


# What none but Exception matches is logged with its traceback.
HANDLERS = {
    HTTPException: _on_http,
    SDCoreError: _on_error,
    MemoryError: _on_error,
    Exception: _on_error,
}
