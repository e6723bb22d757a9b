"""What a treatment asks of clients and their requests, in words; and whom it turns away. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from kmn.ingress.model import How, Keyed, Sources, Treatment

__all__ = ["FIELDS", "demands_of", "is_allowed"]

# The fields of a treatment that are told here.
FIELDS = (
    "sources", "basic_auth", "authorization", "cors", "rate_limits", "body_limit", "body_streamed", "hash_on",
    "session", "error_pages", "retry", "idle_timeout", "https_without_slash",
)  # fmt: skip


def is_allowed(sources: Sources | None, client: str) -> bool:
    """Whether somebody with this address may ask."""
    if sources is None:
        return True
    address = ip_address(client)

    def within(networks: tuple[str, ...]) -> bool:
        return any(address in ip_network(each, strict=False) for each in networks)

    return not within(sources.denied) and (not sources.allowed or within(sources.allowed))


def demands_of(treatment: Treatment) -> Iterator[str]:
    """One line each."""
    yield from _of_clients(treatment)
    for limit in treatment.rate_limits:
        often = f"{limit.requests} in {limit.seconds} s, {limit.burst} at once"
        yield f"each client's address has {often}; more are answered {limit.status}"
    if treatment.body_limit is not None:
        yield f"bodies of more than {treatment.body_limit} bytes are answered 413"
    if treatment.hash_on:
        keys = " and ".join(_KEYS[key.by].format(key.name) for key in treatment.hash_on)
        yield f"the endpoint is chosen by {keys}"
    if treatment.session is not None:
        yield f"cookie {treatment.session.name} keeps a client with its endpoint"
    if treatment.retry is not None:
        codes = "".join(f", also after a {code}" for code in treatment.retry.codes)
        yield f"what cannot be delivered is tried {treatment.retry.tries} times{codes}"
    if treatment.idle_timeout is not None:
        yield f"answered 504 when nothing comes for {treatment.idle_timeout:g} s"
    if treatment.error_pages is not None:
        codes = ", ".join(map(str, treatment.error_pages.codes))
        yield f"an answer {codes} is replaced by one of {treatment.error_pages.upstream.backend}"


_KEYS = {
    Keyed.ADDRESS: "the client's address",
    Keyed.HEADER: "header {}",
    Keyed.QUERY: "query parameter {}",
    Keyed.COOKIE: "cookie {}",
}


def _of_clients(treatment: Treatment) -> Iterator[str]:
    if treatment.sources is not None:
        denied, allowed = treatment.sources.denied, treatment.sources.allowed
        if denied:
            yield f"clients of {', '.join(denied)} are answered 403"
        if allowed:
            yield f"clients of others than {', '.join(allowed)} are answered 403"
    if treatment.basic_auth is not None:
        names = ", ".join(name for name, _ in treatment.basic_auth.users)
        yield f"answered 401 without the password of {names or 'anybody: there is no user'}"
    if treatment.authorization is not None:
        yield f"{treatment.authorization.upstream.backend} is asked first, at {treatment.authorization.path}"
    if treatment.cors is not None:
        origins = ["any origin" if each.how is How.PRESENT else each.value for each in treatment.cors.origins]
        yield f"scripts of {', '.join(origins)} may read the answer"
