"""What is done with requests: ``actions.NAME`` of class ``alb``, as JSON in an annotation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from kmn.ingress.dialects.alb.annotations import Notes, Wrong, case_folded, visible
from kmn.ingress.dialects.alb.groups import Listener
from kmn.ingress.model import Action, Answer, Forward, Redirect, Share, Upstream

__all__ = ["action_of", "to_https"]

_CODES = {"HTTP_301": 301, "HTTP_302": 302}
_STATUS = re.compile("[245][0-9][0-9]")
_PLACEHOLDER = re.compile(r"#\{(\w+)\}")
_DEFAULTS = {
    "host": "#{host}", "path": "/#{path}", "port": "#{port}", "protocol": "#{protocol}", "query": "#{query}",
}  # fmt: skip
_OF_PROTOCOL = {"HTTP": 80, "HTTPS": 443}
_LONGEST_BODY = 1024
_CONTENT_TYPES = ("text/plain", "text/css", "text/html", "application/javascript", "application/json")


def to_https(port: int) -> Redirect:
    """What ``ssl-redirect`` does."""
    return Redirect(301, scheme="https", port=port)


def action_of(
    notes: Notes, name: str, listener: Listener, upstream: Callable[[str, int | str], Upstream]
) -> Action | None:
    """The action ``name``, None when there is none that can be used, which ``notes`` is told.

    ``upstream`` has the target group of a Service and its port.
    """
    annotation = f"actions.{name}"
    found = case_folded(notes.json(annotation))
    if found is None:
        if not any(annotation in problem.message for problem in notes.problems):
            notes.failed(f"missing {annotation} configuration: port name use-annotation asks for this annotation")
        return None
    try:
        match found.get("type"):
            case "forward":
                return _forward(notes, annotation, found, upstream)
            case "redirect":
                return _redirect(found["redirectconfig"], listener)
            case "fixed-response":
                return _fixed(found["fixedresponseconfig"])
            case other:
                notes.ignored(f"annotation {annotation}: type {other} is not emulated")
                return None
    except Wrong as error:
        notes.wrong(annotation, str(error))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        notes.wrong(annotation, f"it cannot be read: {error!r}")
    return None


def _forward(
    notes: Notes, annotation: str, found: dict[str, Any], upstream: Callable[[str, int | str], Upstream]
) -> Forward:
    config = found.get("forwardconfig") or {}
    groups = config.get("targetgroups") or []
    if found.get("targetgrouparn"):
        groups = [*groups, found]
    if (config.get("targetgroupstickinessconfig") or {}).get("enabled"):
        notes.ignored(f"annotation {annotation}: targetGroupStickinessConfig is not emulated: requests are divided")
    shares = []
    for each in groups:
        weight = int(each.get("weight", 1))
        if not 0 <= weight <= 999:
            raise Wrong(f"weight {weight} should be from 0 to 999")
        if each.get("servicename"):
            port = each.get("serviceport")
            number = int(port) if str(port).isdecimal() else str(port)
            shares.append(Share(upstream(each["servicename"], number), weight))
        else:
            notes.ignored(f"annotation {annotation}: targetGroupARN: there is no AWS: its share gets 500")
            shares.append(Share(None, weight))
    if not shares:
        raise Wrong("forwardConfig.targetGroups: name a serviceName and a servicePort")
    return Forward(tuple(shares))


def _fixed(config: dict[str, Any]) -> Answer:
    status = str(config["statuscode"])
    if not _STATUS.fullmatch(status):
        raise Wrong(f'statusCode "{status}" should be 2XX, 4XX or 5XX')
    body, content = str(config.get("messagebody") or ""), config.get("contenttype") or "text/plain"
    if len(body) > _LONGEST_BODY:
        raise Wrong(f"messageBody has {len(body)} characters: {_LONGEST_BODY} are allowed")
    if content not in _CONTENT_TYPES:
        raise Wrong(f'contentType "{content}" should be one of {", ".join(_CONTENT_TYPES)}')
    return Answer(int(status), body, content)


def _redirect(config: dict[str, Any], listener: Listener) -> Redirect:
    code = _CODES.get(str(config.get("statuscode")))
    if code is None:
        raise Wrong(f'statusCode "{config.get("statuscode")}" should be HTTP_301 or HTTP_302')
    given = {name: visible(str(config.get(name) or default)) for name, default in _DEFAULTS.items()}
    if given == _DEFAULTS:
        raise Wrong("it would lead to itself: change protocol, host, port, path or query")
    for name, text in given.items():
        for placeholder in _PLACEHOLDER.findall(text):
            if placeholder not in _DEFAULTS:
                raise Wrong(
                    f"{name}: #{{{placeholder}}} should be one of {', '.join(map('#{{{}}}'.format, _DEFAULTS))}"
                )
    known = {"#{port}": str(listener.port), "#{protocol}": listener.protocol}
    given = {name: _filled(text, known) for name, text in given.items()}
    scheme, port = given["protocol"].lower(), int(given["port"]) if given["port"].isdecimal() else 0
    if not 1 <= port <= 65535:
        raise Wrong(f'port "{given["port"]}" should be from 1 to 65535, or #{{port}}')
    if not given["path"].startswith("/"):
        raise Wrong(f'path "{given["path"]}" should begin with a slash')
    if scheme not in ("http", "https"):
        raise Wrong(f'protocol "{given["protocol"]}" should be HTTP, HTTPS or #{{protocol}}')
    same = {name: given[name] == _DEFAULTS[name] for name in ("host", "path", "query")}
    mixed = any("#{" in given[name] and not same[name] for name in same)
    if mixed or (same["path"] and not same["query"]):
        return Redirect(code, template=_template(given, listener))
    path = None if same["path"] else given["path"]
    if path is not None and not same["query"]:
        path = f"{path}?{given['query']}"  # without one the request's is kept
    return Redirect(code, scheme=scheme, port=port, host=None if same["host"] else given["host"], path=path)


def _template(given: dict[str, str], listener: Listener) -> str:
    """All of the new location. A port in the request's Host header stays there: it can be told only of ports that
    clients do not write."""
    host, port, scheme = given["host"], int(given["port"]), given["protocol"].lower()
    authority = f"{host}:{port}"  # always with the port, as AWS writes it
    if "#{host}" in host and listener.port != _OF_PROTOCOL[listener.protocol]:
        if port != listener.port:
            raise Wrong("#{host} together with another port is not emulated at a listener that is not on 80 or 443")
        authority = host
    path, query = given["path"], given["query"]
    if "#{path}" in path.replace("/#{path}", ""):
        raise Wrong('path: #{path} is emulated after a "/" only')
    if query == _DEFAULTS["query"] and path.endswith("/#{path}"):
        whole = path.removesuffix("/#{path}") + "{target}"
    else:
        whole = f"{path}?{query}" if query else path
    text = f"{scheme}://{authority}{whole}".replace("/#{path}", "{path}")
    return _filled(text, {"#{host}": "{host}", "#{query}": "{query}"})


def _filled(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text
