"""The application: routes, error forms and middleware around one `Site`."""

import logging
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

import hfx

from . import admin, admin_bodies, protocol
from .docs import page
from .errors import ApiError
from .middleware import Guard, Trace
from .routes import refuse, router
from .site import Site, site_of

log = logging.getLogger("hfx.serve")

_BODIES = (
    protocol.ChatCompletionRequest,
    protocol.CompletionRequest,
    protocol.TokenizeRequest,
    protocol.DetokenizeRequest,
    admin_bodies.ResizeRequest,
    admin_bodies.TiersRequest,
)


def application(site: Site) -> ASGIApp:
    """Everything that answers a request, from its first header on."""
    api = fastapi(site)
    guarded: ASGIApp = Guard(
        api,
        api_keys=site.http.api_key,
        admin_keys=site.http.admin_key,
        max_bytes=site.http.max_request_bytes,
    )
    if site.http.allowed_origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=site.http.allowed_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "x-should-retry"],
        )
    return Trace(
        guarded,
        root_path=site.http.root_path,
        count=site.metrics.count,
        log_requests=site.http.log_requests,
    )


def fastapi(site: Site) -> FastAPI:
    """Routes and error handlers."""
    api = FastAPI(
        title="hfx",
        version=hfx.__version__,
        description="OpenAI-compatible serving of language models. With `--api-key`, inference "
        "needs the header `Authorization: Bearer KEY`. `/admin` is there with `--admin-key` only, "
        "and takes no other key.",
        docs_url=None,
        redoc_url=None,
    )
    api.state.site = site
    api.include_router(router)
    api.include_router(admin.router)
    api.add_api_route("/docs", _docs, include_in_schema=False)
    api.add_exception_handler(ApiError, refuse)
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(ClientDisconnect, _gone)
    api.add_exception_handler(Exception, _defect)
    api.openapi = lambda: _schema(api)  # type: ignore[method-assign]
    return api


async def _docs(request: Request) -> Response:
    base_url = str(request.base_url).rstrip("/") + site_of(request).http.root_path
    return HTMLResponse(page(request.app.openapi(), base_url))


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router."""
    assert isinstance(error, HTTPException)
    method, path = request.method, request.url.path
    message = {
        404: f"there is no {path} here; /docs lists what there is",
        405: f"{path} does not take {method}; /docs lists what it takes",
    }.get(error.status_code, str(error.detail))
    api_error = ApiError(error.status_code, message, headers=error.headers)
    return await refuse(request, api_error)


async def _gone(request: Request, error: Exception) -> Response:
    """The client left while it sent its body: nobody reads this."""
    return Response(status_code=400)


async def _defect(request: Request, error: Exception) -> Response:
    """Our own mistake; the traceback goes to the log, not to the client."""
    log.error("request %s failed", request.scope.get("request_id"), exc_info=error)
    message = f"internal error; the server's log has it under {request.scope.get('request_id')}"
    headers = {"connection": "close"}  # the error goes on to uvicorn, which hangs up
    return await refuse(request, ApiError(500, message, code="internal_error", headers=headers))


def _schema(api: FastAPI) -> dict[str, Any]:
    """OpenAPI, with the bodies that routes read by hand among the components."""
    if api.openapi_schema is None:
        schema = get_openapi(
            title=api.title,
            version=api.version,
            description=api.description,
            routes=api.routes,
            servers=[{"url": api.state.site.http.root_path or "/"}],
        )
        template = "#/components/schemas/{model}"
        _, bodies = models_json_schema(
            [(body, "validation") for body in _BODIES], ref_template=template
        )
        schema["components"]["schemas"] |= bodies["$defs"]
        _drop_validation_errors(schema)
        api.openapi_schema = schema
    return api.openapi_schema


def _drop_validation_errors(schema: dict[str, Any]) -> None:
    """FastAPI describes a 422 of its own form, which is never sent here."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
