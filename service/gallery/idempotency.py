"""Idempotency keys: a write that is asked for twice is done once and answered twice.

    claim = claims.take(catalog, scope, key, digest)
    if claim.answer is not None:
        return claim.answer                       the first answer, again
    try:
        ...                                       the work
        with catalog.write() as tx:
            ...                                   its result
            remember(tx, claim, status, body)     and its answer: both are committed, or neither
    finally:
        claims.release(claim)

Who is working on a key is known to all replicas (`service.shared`) as long as they live; so a crash leaves no claim
that anybody would have to take over. The answers are in the catalog, with the changes that they answer. Should two
processes work on one key all the same, the unique key lets only the first commit.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from service.errors import IdempotencyConflictError, IdempotencyInProgressError
from service.gallery.catalog import Catalog, WriteTransaction
from service.gallery.schema import answers
from service.shared.store import Shared

KEPT = timedelta(hours=24)
"""How long an answer is given again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a key, or the answer if the work is done.

    Attributes:
        scope: whose key it is: keys of different callers do not meet.
        key: as the caller sent it.
        request_digest: of the request, so that another request under the same key is noticed.
        holder: tells this claim from others of the same request.
        answer: what the first request was answered with.
    """

    scope: str
    key: str
    request_digest: str
    holder: str = ""
    answer: Answer | None = None


class Claims:
    """The keys that are being worked on; safe to use from threads.

    Args:
        shared: where replicas tell one another.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def take(self, catalog: Catalog, scope: str, key: str, request_digest: str) -> Claim:
        """Claim a key, to be released whatever happens.

        Raises:
            IdempotencyConflictError: the key came before, with another request.
            IdempotencyInProgressError: the first request with the key has not ended.
        """
        claim = Claim(scope, key, request_digest, secrets.token_hex(8))
        running = self._shared.claim(_name(claim), _value(claim))
        if running is not None:
            _refuse_another(running.partition(" ")[0], request_digest)
            raise IdempotencyInProgressError("the first request with this Idempotency-Key has not ended")
        # Claimed first, looked up second: the other way round, a request that ends in between would be done again.
        try:
            answer = _answered(catalog, claim)
        except BaseException:
            self.release(claim)
            raise
        if answer is None:
            return claim
        self.release(claim)
        return Claim(scope, key, request_digest, answer=answer)

    def release(self, claim: Claim) -> None:
        """Let go of a claim; nothing happens to one that brought its answer."""
        if claim.answer is None:
            self._shared.release(_name(claim), _value(claim))


def remember(tx: WriteTransaction, claim: Claim, status: int, body: bytes) -> None:
    """Keep the answer together with what `tx` changes, and drop answers older than a day.

    Raises:
        IdempotencyInProgressError: another process was faster; the transaction must not be committed.
    """
    tx.connection.execute(answers.delete().where(answers.c.created_at <= tx.now - KEPT))
    values = {
        "scope": claim.scope,
        "key": claim.key,
        "request_digest": claim.request_digest,
        "status": status,
        "body": body,
        "created_at": tx.now,
    }
    try:
        tx.connection.execute(insert(answers).values(values))
    except IntegrityError as error:
        raise IdempotencyInProgressError("another request with this Idempotency-Key was faster") from error


def _answered(catalog: Catalog, claim: Claim) -> Answer | None:
    with catalog.read() as reading:
        query = select(answers.c.request_digest, answers.c.status, answers.c.body).where(
            answers.c.scope == claim.scope, answers.c.key == claim.key, answers.c.created_at > reading.now - KEPT
        )
        row = reading.connection.execute(query).one_or_none()
    if row is None:
        return None
    _refuse_another(row.request_digest, claim.request_digest)
    return Answer(row.status, row.body)


def _name(claim: Claim) -> str:
    return f"claim:{claim.scope} {claim.key}"


def _value(claim: Claim) -> str:
    return f"{claim.request_digest} {claim.holder}"


def _refuse_another(first: str, second: str) -> None:
    if first != second:
        raise IdempotencyConflictError("this Idempotency-Key was used for another request")
