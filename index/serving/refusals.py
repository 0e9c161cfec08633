"""What a refused request is answered with."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from extractors.errors import PipelineError, UsageError
from index.serving.batching import OverloadedError
from index.serving.guard import RETRY_SECONDS, error_answer
from index.serving.service import Service

logger = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI, service: Service) -> None:
    """Every refusal is {"error": a sentence}; nothing of the server's inside gets out. What is
    expected nowhere is answered by `Guard`."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, err: RequestValidationError) -> JSONResponse:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
        return error_answer(422, f"{place or 'body'}: {str(first['msg']).lower()}")

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, err: HTTPException) -> JSONResponse:
        return error_answer(err.status_code, str(err.detail), dict(err.headers or {}))

    @app.exception_handler(PipelineError)
    async def failed(_request: Request, err: PipelineError) -> JSONResponse:
        if isinstance(err, OverloadedError):
            return error_answer(503, str(err), {"retry-after": RETRY_SECONDS})
        if isinstance(err, UsageError):
            return error_answer(422, service.public(str(err)))
        logger.error("%s", err)
        return error_answer(500, "the index is damaged or was changed: ask who runs this server")
