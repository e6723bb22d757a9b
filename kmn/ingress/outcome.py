"""What a rule makes of a request: the address of a redirect, the path and host that a backend sees. Pure."""

from __future__ import annotations

import re

from kmn.ingress.match import Request
from kmn.ingress.model import How, Redirect, Rewrite, Rule, Text

__all__ = ["host_seen", "https_location", "location", "path_seen"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


def path_seen(rewrite: Rewrite | None, matched: Text, path: str) -> str:
    """What the backend sees for a path that ``matched``; without the query, which stays."""
    if rewrite is None:
        return path
    if rewrite.path is not None:
        return rewrite.path
    if rewrite.prefix is not None:
        return _instead_of_prefix(matched, rewrite.prefix, path)
    if rewrite.substitution is not None and rewrite.pattern is not None:
        return re.sub(rewrite.pattern, rewrite.substitution, path)
    if rewrite.substitution is not None:
        pattern = re.compile(matched.value, re.IGNORECASE if matched.ignore_case else 0)
        found = pattern.fullmatch(path)
        return path if found is None else re.sub(r"\\(\d)", lambda at: _group(found, int(at[1])), rewrite.substitution)
    return path


def host_seen(rewrite: Rewrite | None, request: Request) -> str:
    """The ``Host`` that the backend sees."""
    return request.authority if rewrite is None or rewrite.host is None else rewrite.host


def location(rule: Rule, redirect: Redirect, request: Request, scheme: str) -> str:
    """Where a client that came by ``scheme`` is sent."""
    if redirect.template is not None:
        known = {"host": request.authority, "path": request.path, "target": request.target, "query": request.query}
        return re.sub(r"\{(host|path|target|query)\}", lambda at: known[at[1]], redirect.template)
    wanted = redirect.scheme or scheme
    if redirect.host is not None:
        host = redirect.host
    elif redirect.port is not None:
        host = re.sub(r":\d+$", "", request.authority)
    else:
        host = _host_for(request.authority, scheme, wanted)
    port = f":{redirect.port}" if redirect.port is not None else ""
    path = request.path
    if redirect.path is not None:
        path = redirect.path
    elif redirect.prefix is not None:
        path = _instead_of_prefix(rule.match.path, redirect.prefix, path)
    query = f"?{request.query}" if redirect.query and request.query and "?" not in path else ""
    return f"{wanted}://{host}{port}{path}{query}"


def https_location(request: Request, *, without_slash: bool = False) -> str:
    """Where a rule that wants TLS sends those who come without; the slash is that at the path's end."""
    path = request.path.removesuffix("/") if without_slash else request.path
    query = f"?{request.query}" if request.query else ""
    return f"https://{_host_for(request.authority, 'http', 'https')}{path}{query}"


def _host_for(host: str, before: str, after: str) -> str:
    """The default port of one scheme is not that of the other."""
    return host.removesuffix(f":{_DEFAULT_PORTS.get(before)}") if before != after else host


def _instead_of_prefix(matched: Text, text: str, path: str) -> str:
    """/a/b with the prefix /a becomes ``text``/b, and /a ``text``: never with two slashes."""
    prefix = matched.value if matched.how is How.PREFIX else ""
    whole, rest = text.rstrip("/"), path[len(prefix) :]
    if not whole:
        return f"/{rest.lstrip('/')}" if prefix else path
    return f"{whole}{rest}"


def _group(found: re.Match[str], number: int) -> str:
    return found[number] or ""
