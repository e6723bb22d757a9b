"""What a treatment asks of clients, in words that show no secret."""

from __future__ import annotations

from dataclasses import fields

import pytest

from kmn.ingress.demands import FIELDS, demands_of, is_allowed
from kmn.ingress.model import (
    Authorization,
    Backend,
    BasicAuth,
    Cookie,
    Cors,
    ErrorPages,
    HashKey,
    How,
    Keyed,
    RateLimit,
    Retry,
    Sources,
    Text,
    Treatment,
    Upstream,
)

A = Upstream(Backend("n", "a", 80))


@pytest.mark.parametrize(
    ("sources", "client", "allowed"),
    [
        (None, "192.0.2.1", True),
        (Sources(("10.0.0.0/8", "192.0.2.1")), "192.0.2.1", True),
        (Sources(("10.0.0.0/8",)), "192.0.2.1", False),
        (Sources((), ("192.0.2.0/24",)), "192.0.2.1", False),
        (Sources(("0.0.0.0/0",), ("192.0.2.0/24",)), "192.0.2.1", False),
        (Sources(("10.0.0.0/8",)), "fd00::1", False),
    ],
)
def test_who_may_ask(sources: Sources | None, client: str, allowed: bool) -> None:
    assert is_allowed(sources, client) is allowed


def test_words() -> None:
    treatment = Treatment(
        sources=Sources(("10.0.0.0/8",), ("10.1.0.0/16",)),
        basic_auth=BasicAuth("r", (("ann", "{SHA}secret"), ("bob", "$apr1$secret"))),
        authorization=Authorization(A, "/check"),
        cors=Cors((Text(How.EXACT, "http://x"), Text(How.PRESENT)), "GET", "X"),
        rate_limits=(RateLimit(5, 1, 26, 503),),
        body_limit=1024,
        hash_on=(HashKey(Keyed.ADDRESS), HashKey(Keyed.HEADER, "x-user")),
        session=Cookie("stay"),
        retry=Retry(3, (502,)),
        idle_timeout=60,
        error_pages=ErrorPages((404, 503), A),
    )
    assert list(demands_of(treatment)) == [
        "clients of 10.1.0.0/16 are answered 403",
        "clients of others than 10.0.0.0/8 are answered 403",
        "answered 401 without the password of ann, bob",
        "n/a:80 is asked first, at /check",
        "scripts of http://x, any origin may read the answer",
        "each client's address has 5 in 1 s, 26 at once; more are answered 503",
        "bodies of more than 1024 bytes are answered 413",
        "the endpoint is chosen by the client's address and header x-user",
        "cookie stay keeps a client with its endpoint",
        "what cannot be delivered is tried 3 times, also after a 502",
        "answered 504 when nothing comes for 60 s",
        "an answer 404, 503 is replaced by one of n/a:80",
    ]
    assert list(demands_of(Treatment())) == []
    assert set(FIELDS) <= {field.name for field in fields(Treatment)}
