"""The last look: the one question that notify asks registry over HTTP, just before messages leave."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import httpx
import structlog

from services.notify.domain import Candidate, Go, Hold
from shared.auth import TokenSource
from shared.clock import Clock

MOST = 1_000
"""Items that registry takes in one look."""
REFUSED_QUESTION = "question_refused"
"""Why a notice waits whose question registry refused: the contracts of the two differ."""
_REFUSALS = (400, 413, 422)
"""What registry answers to a question that it can't read. Others, like 403, are no matter of one question."""

log = structlog.get_logger(__name__)


class NoAnswerError(Exception):
    """Registry gave no answer that may be relied on. The message says why, without any value."""


class LastLook(Protocol):
    """Tells of each candidate whether it may go."""

    async def look(self, candidates: Sequence[Candidate]) -> list[Go | Hold]:
        """One answer per candidate, in order. Raises NoAnswerError; then nothing may leave."""


@dataclass(frozen=True)
class RegistryLastLook:
    """Asks registry. The client knows registry's address; time-outs are kept here, in process too.

    `oldest` is how far registry's instant may lie before the question.
    """

    client: httpx.AsyncClient
    tokens: TokenSource
    clock: Clock
    timeout_s: float
    oldest: timedelta

    async def look(self, candidates: Sequence[Candidate]) -> list[Go | Hold]:
        """See LastLook."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._look(candidates)
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            raise NoAnswerError(type(error).__name__) from error

    async def _look(self, candidates: Sequence[Candidate]) -> list[Go | Hold]:
        asked_at = self.clock.now()
        answer = await self._ask({"items": [_question(candidate) for candidate in candidates]})
        if answer.status_code in _REFUSALS:
            return await self._without_the_refused(candidates)
        if answer.status_code != httpx.codes.OK:
            raise NoAnswerError(f"status {answer.status_code}")
        try:
            as_of, answers = _read(answer.json())
        except (ValueError, KeyError, TypeError) as error:
            raise NoAnswerError("not an answer to a last look") from error
        if len(answers) != len(candidates):
            raise NoAnswerError("answers are missing")
        if as_of < asked_at - self.oldest:
            raise NoAnswerError("the answer is too old")
        return answers

    async def _without_the_refused(self, candidates: Sequence[Candidate]) -> list[Go | Hold]:
        """Asks in halves: a question that registry can't read holds its own notice and no other."""
        if len(candidates) == 1:
            log.warning("look_refused", notice=candidates[0].notice.id)
            return [Hold(REFUSED_QUESTION)]
        half = len(candidates) // 2
        return await self._look(candidates[:half]) + await self._look(candidates[half:])

    async def _ask(self, body: dict[str, Any]) -> httpx.Response:
        answer = await self._post(body, await self.tokens.token())
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            answer = await self._post(body, await self.tokens.renew())
        return answer

    async def _post(self, body: dict[str, Any], token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return await self.client.post("/v1/last-look", json=body, headers=headers)


def _question(candidate: Candidate) -> dict[str, Any]:
    facts = candidate.notice.facts
    return {
        "subject": {"uscc": candidate.notice.uscc},
        "void": dict(facts.void),
        "facts": {
            "established_on": str(facts.established_on),
            "kind": facts.kind,
            "name": facts.unit_name,
            "town": facts.town,
            "contact_version": candidate.contact_version,
        },
    }


def _read(answer: dict[str, Any]) -> tuple[datetime, list[Go | Hold]]:
    as_of = datetime.fromisoformat(answer["as_of"])
    if as_of.tzinfo is None:
        raise ValueError("as_of has no zone")
    return as_of, [_answer(item) for item in answer["items"]]


def _answer(item: dict[str, Any]) -> Go | Hold:
    if item["answer"] == "go":
        return Go()
    if item["answer"] == "hold" and isinstance(item["reason"], str) and item["reason"]:
        return Hold(item["reason"])
    raise ValueError("neither go nor hold")
