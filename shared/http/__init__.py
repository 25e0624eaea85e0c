"""HTTP as every service speaks it: strict requests, problems in two languages, stated access.

Bad input never reaches a command and is never a 5xx; what it held is never echoed.
"""

from shared.http.access import (
    Access,
    Caller,
    Public,
    RateLimiter,
    access,
    caller,
    public,
    routes_without_access,
    too_many_requests,
)
from shared.http.answers import (
    Page,
    answer,
    answer_response,
    decode_cursor,
    encode_cursor,
    etag,
    if_match,
    page,
    route_template,
)
from shared.http.around import install
from shared.http.bodies import MAX_BODY, parse_json, read_body, stream_body
from shared.http.contract import Api
from shared.http.fields import (
    FIRST_YEAR,
    LAST_YEAR,
    Body,
    Choice,
    Cursor,
    Day,
    Flag,
    Limit,
    Listing,
    Many,
    Moment,
    RowId,
    Text,
    Whole,
    refuse,
)
from shared.http.problems import field_errors, pointer, problem_response
from shared.http.routes import FileRoute, PlainRoute, StrictRoute

__all__ = [
    "FIRST_YEAR",
    "LAST_YEAR",
    "MAX_BODY",
    "Access",
    "Api",
    "Body",
    "Caller",
    "Choice",
    "Cursor",
    "Day",
    "FileRoute",
    "Flag",
    "Limit",
    "Listing",
    "Many",
    "Moment",
    "Page",
    "PlainRoute",
    "Public",
    "RateLimiter",
    "RowId",
    "StrictRoute",
    "Text",
    "Whole",
    "access",
    "answer",
    "answer_response",
    "caller",
    "decode_cursor",
    "encode_cursor",
    "etag",
    "field_errors",
    "if_match",
    "install",
    "page",
    "parse_json",
    "pointer",
    "problem_response",
    "public",
    "read_body",
    "refuse",
    "route_template",
    "routes_without_access",
    "stream_body",
    "too_many_requests",
]
