"""The OpenAPI document of a service: its real problems instead of the framework's, and what proves the caller."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, Field

from shared.http.access import Access

MEDIA_TYPE: Final = "application/problem+json"
_SCHEMAS: Final = "#/components/schemas/{model}"
_NOT_OURS: Final = ("HTTPValidationError", "ValidationError")
_WORDS: Final = {
    "401": "no token, or none that is valid",
    "403": "the token lacks a scope, or the thing is another town's or department's",
    "404": "there is no such thing, or it is not shown to the caller",
    "409": "it cannot be done as things stand",
    "422": "fields that are not acceptable, each with its pointer",
}


class FieldProblem(BaseModel):
    """One field that is not acceptable: where, and how to mend it in Chinese and English."""

    pointer: str = Field(description="JSON pointer (RFC 6901) into the body, or /query/…, /path/…, /header/…")
    code: str
    zh: str
    en: str


class ProblemOut(BaseModel):
    """A refusal (RFC 9457). `code` is stable; `detail` is `detail_zh`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    detail_zh: str
    detail_en: str
    correlation_id: str
    errors: list[FieldProblem] = []


class Api(FastAPI):
    """An application whose OpenAPI document says what its routes really ask for and answer."""

    def openapi(self) -> dict[str, Any]:
        """The document; made once."""
        if self.openapi_schema is None:
            self.openapi_schema = _told(super().openapi(), self)
        return self.openapi_schema


def _told(document: dict[str, Any], app: FastAPI) -> dict[str, Any]:
    rules = _rules(app)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rule = rules.get((path, method))
            for status in _statuses(path, method, rule):
                operation["responses"][status] = _problem(status)
            operation["security"] = [{"bearer": sorted(rule.scopes)}] if rule else []
    parts = document.setdefault("components", {})
    for name in _NOT_OURS:
        parts.get("schemas", {}).pop(name, None)
    schema = ProblemOut.model_json_schema(ref_template=_SCHEMAS)
    parts.setdefault("schemas", {}).update(schema.pop("$defs"), Problem=schema)
    parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    return document


def _rules(app: FastAPI) -> dict[tuple[str, str], Access]:
    """The access rule of every route that asks for a token, by path and method."""
    return {
        (route.path or "", method.lower()): dependency.dependency
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
        for dependency in route.dependencies or ()
        if isinstance(dependency.dependency, Access)
    }


def _statuses(path: str, method: str, rule: Access | None) -> list[str]:
    wanted = {
        "401": rule is not None,
        "403": rule is not None,
        "404": "{" in path,
        "409": method in ("post", "put", "patch"),
        "422": True,  # also where nothing is asked for: an unknown parameter is refused
    }
    return [status for status, applies in wanted.items() if applies]


def _problem(status: str) -> dict[str, Any]:
    return {
        "description": _WORDS[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": _SCHEMAS.format(model="Problem")}}},
    }
