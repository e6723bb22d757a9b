"""Middleware objects (``traefik.io/v1alpha1``): what a router's requests go through, one after the other.

What is here changes a *draft* of the router's rules. A middleware that would keep somebody out and cannot be followed
lets nobody in, as one that is missing: Traefik does not make the router, and neither does this.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, ip_network
from typing import Any

from kmn.ingress.model import (
    PASSWORD_HASH,
    BasicAuth,
    Cors,
    HeaderChange,
    How,
    RateLimit,
    Retry,
    Rewrite,
    Sources,
    Text,
    Treatment,
)
from kmn.ingress.regexes import checked
from kmn.ingress.routing import Find
from kmn.k8s.objects import Key, Object, key_of
from kmn.k8s.resources import MIDDLEWARES, SECRETS

__all__ = ["Draft", "Unusable", "apply_middlewares"]

_DEPTH = 10  # chains in chains: more are in a circle
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NAMES = {"ipwhitelist": "ipallowlist"}  # as it was called before
# Of these one may do without; the others keep somebody out, or nobody knows what they do.
_OPTIONAL = frozenset(("buffering", "circuitbreaker", "compress", "contenttype", "errors", "grpcweb", "retry"))
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Unusable(Exception):
    """The router cannot be made; the message says why."""


@dataclass(slots=True)
class Draft:
    """A router before it is rules. ``path`` is what its rule matches."""

    path: str
    treatment: Treatment
    redirect: tuple[str, int | None, bool] | None = None  # scheme, port and whether for good
    strips: bool = False  # the path has been changed in a way that AddPrefix can go on with
    remarks: list[str] = field(default_factory=list)  # what has no effect, in words

    def change(self, **fields: Any) -> None:
        """Of the treatment."""
        self.treatment = replace(self.treatment, **fields)


def apply_middlewares(draft: Draft, names: tuple[str, ...], find: Find) -> None:
    """``names`` are those of an annotation: ``NAMESPACE-NAME@kubernetescrd``. Raises Unusable."""
    for name in names:
        own, _, provider = name.partition("@")
        if provider != "kubernetescrd":
            raise Unusable(f'middleware "{name}": only Middleware objects are emulated: NAMESPACE-NAME@kubernetescrd')
        found = _named(own, find)
        if found is None:
            raise Unusable(f'middleware "{name}" does not exist')
        _apply(draft, found, find, 0)


def _named(text: str, find: Find) -> Object | None:
    """The one whose namespace and name are joined like that: both may have hyphens in them."""
    words = text.split("-")
    splits = (Key("-".join(words[:at]), "-".join(words[at:])) for at in range(1, len(words)))
    return next((found for key in splits if (found := find(MIDDLEWARES, key)) is not None), None)


def _apply(draft: Draft, middleware: Object, find: Find, depth: int) -> None:
    key = key_of(middleware)
    if depth > _DEPTH:
        raise Unusable(f"Middleware {key}: spec.chain leads back to itself")
    for kind, spec in (middleware.get("spec") or {}).items():
        word = _NAMES.get(kind.lower(), kind.lower())
        try:
            if word == "chain":
                for each in spec["middlewares"]:
                    inner = find(MIDDLEWARES, Key(each.get("namespace") or key.namespace, each["name"]))
                    if inner is None:
                        raise Unusable(f"Middleware {key}: spec.chain: there is no Middleware {each['name']}")
                    _apply(draft, inner, find, depth + 1)
            elif word in _KINDS:
                _KINDS[word](draft, spec or {}, lambda name: find(SECRETS, Key(key.namespace, name)))
            elif word in _OPTIONAL:
                draft.remarks.append(f"Middleware {key}: spec.{kind} is not emulated: no effect")
            else:
                raise Unusable(f"Middleware {key}: spec.{kind} is not emulated")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = str(error) if isinstance(error, ValueError) else f"cannot be read: {error!r}"
            raise Unusable(f"Middleware {key}: spec.{kind}: {why}") from None


# --- paths ------------------------------------------------------------------------------------------------------

_Secret = Callable[[str], Object | None]


def _strip_prefix(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    prefixes = [str(prefix) for prefix in spec.get("prefixes") or ()]
    if not prefixes:
        raise ValueError("prefixes is empty: name some")
    matched = next((prefix for prefix in prefixes if draft.path.startswith(prefix)), None)
    _strip(draft, "|".join(map(re.escape, prefixes)), always=matched is not None)
    if matched is not None:
        _request_header(draft, "X-Forwarded-Prefix", matched)


def _strip_prefix_regex(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    patterns = [checked(str(pattern)).removeprefix("^") for pattern in spec.get("regex") or ()]
    if not patterns or any(re.compile(pattern).groups for pattern in patterns):
        raise ValueError("regex should be a list of expressions without groups that capture")
    _strip(draft, "|".join(f"(?:{pattern})" for pattern in patterns), always=False)


def _strip(draft: Draft, alternatives: str, *, always: bool) -> None:
    """What is left has a slash at its beginning. ``always``: all paths of the router have one of them."""
    _rewrite(draft, f"^(?:{alternatives})/?(.*)$", r"/\1", strips=always)


def _add_prefix(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    prefix = _path(spec["prefix"])
    before = draft.treatment.rewrite
    if before is not None and draft.strips:
        draft.change(rewrite=before._replace(substitution=f"{_verbatim(prefix)}{before.substitution}"))
    else:
        _rewrite(draft, "^(.*)$", rf"{_verbatim(prefix)}\1")


def _replace_path(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    _rewrite(draft, "^.*$", _verbatim(_path(spec["path"])))


def _replace_path_regex(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    pattern, replacement = checked(str(spec["regex"])), str(spec["replacement"])
    groups = re.compile(pattern).groups
    text = re.sub(r"\$\{?([0-9])\}?", r"\\\1", _verbatim(replacement))
    if any(int(number) > groups for number in re.findall(r"\\([0-9])", text)) or re.search(r"\$[{A-Za-z]", text):
        raise ValueError(f'replacement "{replacement}": only groups of regex by number are emulated, such as $1')
    _rewrite(draft, pattern, text)


def _rewrite(draft: Draft, pattern: str, substitution: str, *, strips: bool = False) -> None:
    if draft.treatment.rewrite is not None:
        raise ValueError("only one change of the path is emulated for a router (and AddPrefix after StripPrefix)")
    draft.strips = strips
    draft.change(rewrite=Rewrite(pattern=pattern, substitution=substitution))


def _path(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"/[!-~]*", value):
        raise ValueError(f'"{value}" should be a path that begins with a slash')
    return value


def _verbatim(text: str) -> str:
    return text.replace("\\", "\\\\")


# --- where to ---------------------------------------------------------------------------------------------------


def _redirect_scheme(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    scheme = spec.get("scheme")
    if scheme not in ("http", "https"):
        raise ValueError(f'scheme "{scheme}" should be http or https')
    port = int(spec["port"]) if spec.get("port") else None
    if draft.redirect is None:
        draft.redirect = scheme, port, bool(spec.get("permanent"))


# --- headers ----------------------------------------------------------------------------------------------------

_FLAGS = {
    "framedeny": ("X-Frame-Options", "DENY"),
    "contenttypenosniff": ("X-Content-Type-Options", "nosniff"),
    "browserxssfilter": ("X-XSS-Protection", "1; mode=block"),
}
_VALUES = {
    "customframeoptionsvalue": "X-Frame-Options",
    "custombrowserxssvalue": "X-XSS-Protection",
    "contentsecuritypolicy": "Content-Security-Policy",
    "referrerpolicy": "Referrer-Policy",
    "permissionspolicy": "Permissions-Policy",
}
_CORS = (
    "accesscontrolallowcredentials", "accesscontrolallowheaders", "accesscontrolallowmethods",
    "accesscontrolalloworiginlist", "accesscontrolalloworiginlistregex", "accesscontrolexposeheaders",
    "accesscontrolmaxage", "addvaryheader",
)  # fmt: skip


def _headers(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    given = {name.lower(): value for name, value in spec.items()}
    for name, value in (given.pop("customrequestheaders", None) or {}).items():
        _request_header(draft, name, value)
    for name, value in (given.pop("customresponseheaders", None) or {}).items():
        _response_header(draft, name, value)
    for option, value in given.items():
        if option in _FLAGS and value is True:
            _response_header(draft, *_FLAGS[option])
        elif option in _VALUES and value:
            _response_header(draft, _VALUES[option], value)
        elif value and option not in (*_FLAGS, *_VALUES, *_CORS):
            draft.remarks.append(f"Middleware: headers.{option} is not emulated: no effect")
    if given.get("accesscontrolalloworiginlist") or given.get("accesscontrolalloworiginlistregex"):
        draft.change(cors=_cors(given))


def _cors(given: dict[str, Any]) -> Cors:
    origins = [Text(How.EXACT, str(each)) for each in given.get("accesscontrolalloworiginlist") or ()]
    origins += [
        Text(How.REGEX, f".*(?:{checked(str(each))}).*")
        for each in given.get("accesscontrolalloworiginlistregex") or ()
    ]
    if Text(How.EXACT, "*") in origins:
        origins = [Text(How.PRESENT)]
    return Cors(
        tuple(origins),
        methods=_value(",".join(given.get("accesscontrolallowmethods") or ())),
        headers=_value(",".join(given.get("accesscontrolallowheaders") or ())),
        exposed=_value(",".join(given.get("accesscontrolexposeheaders") or ())),
        credentials=bool(given.get("accesscontrolallowcredentials")),
        max_age=given.get("accesscontrolmaxage") or None,
    )


def _request_header(draft: Draft, name: str, value: Any) -> None:
    if name.lower() == "host":
        raise ValueError("customRequestHeaders: the Host header is not emulated")
    draft.change(request_headers=_with(draft.treatment.request_headers, name, value))


def _response_header(draft: Draft, name: str, value: Any) -> None:
    draft.change(response_headers=_with(draft.treatment.response_headers, name, value))


def _with(change: HeaderChange, name: str, value: Any) -> HeaderChange:
    """A header without a value is taken away."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f'"{name}" is no name of a header')
    if value == "":
        return change._replace(remove=(*change.remove, name))
    return change._replace(set=(*change.set, (name, _value(value))))


def _value(value: Any) -> str:
    text = str(value)
    if not re.fullmatch(r"[\t -~]*", text):
        raise ValueError(f"{text!r} is no value of a header")
    return text


# --- who may ----------------------------------------------------------------------------------------------------


def _ip_allow_list(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    if spec.get("ipStrategy"):
        raise ValueError("ipStrategy is not emulated: the address counts that the connection comes from")
    networks = [ip_network(str(each), strict=False) for each in spec.get("sourceRange") or ()]
    if not networks:
        raise ValueError("sourceRange is empty: nobody would be let in")
    if spec.get("rejectStatusCode") not in (None, 0, 403):
        draft.remarks.append("Middleware: ipAllowList.rejectStatusCode is not emulated: others are answered 403")
    allowed = tuple(str(each) for each in networks if isinstance(each, IPv4Network)) or ("255.255.255.255/32",)
    draft.change(sources=Sources(allowed=allowed))


def _basic_auth(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    found = secret(spec["secret"])
    if found is None:
        raise ValueError(f"there is no Secret {spec['secret']}")
    users = tuple(_users(draft, found))
    draft.change(basic_auth=BasicAuth(_value(spec.get("realm") or "traefik"), users))
    if spec.get("removeHeader"):
        draft.change(request_headers=_with(draft.treatment.request_headers, "Authorization", ""))
    if spec.get("headerField"):
        draft.remarks.append("Middleware: basicAuth.headerField is not emulated: no effect")


def _users(draft: Draft, secret: Object) -> Iterator[tuple[str, str]]:
    """Names, and hashes of passwords."""
    if secret.get("type") == "kubernetes.io/basic-auth":
        digest = hashlib.sha1(_decoded(secret, "password").encode(), usedforsecurity=False).digest()
        yield _decoded(secret, "username"), f"{{SHA}}{base64.b64encode(digest).decode()}"
        return
    for line in filter(None, (line.strip() for line in _decoded(secret, "users").splitlines())):
        user, _, hashed = line.partition(":")
        if PASSWORD_HASH.fullmatch(hashed):
            yield user, hashed
        else:
            draft.remarks.append(
                f"Secret {key_of(secret)}: user {user}: only passwords by SHA-1 and MD5 are emulated (htpasswd -s or "
                "-m): nobody gets in under this name"
            )


def _decoded(secret: Object, name: str) -> str:
    try:
        return base64.b64decode((secret.get("data") or {})[name], validate=True).decode()
    except KeyError:
        raise ValueError(f"Secret {key_of(secret)} has no {name} in its data") from None
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(f"Secret {key_of(secret)}: data[{name}]: {error}") from None


# --- how often and how much -------------------------------------------------------------------------------------


def _rate_limit(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    if spec.get("sourceCriterion") or spec.get("redis"):
        raise ValueError("sourceCriterion and redis are not emulated: clients are told apart by their address")
    average, period = int(spec.get("average") or 0), _duration(spec.get("period") or "1s")
    if period <= 0:
        raise ValueError(f'period "{spec.get("period")}" should be more than nothing')
    if average > 0:
        # By whole seconds: what comes in one may come at once.
        requests = max(1, round(average / min(period, 1.0)))
        own = RateLimit(requests, max(1, round(period)), max(int(spec.get("burst") or 1), requests))
        draft.change(rate_limits=(*draft.treatment.rate_limits, own))


def _retry(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    draft.change(retry=Retry(max(1, int(spec["attempts"]))))


def _buffering(draft: Draft, spec: dict[str, Any], secret: _Secret) -> None:
    if spec.get("maxRequestBodyBytes"):
        draft.change(body_limit=int(spec["maxRequestBodyBytes"]))
    for name in sorted(spec.keys() - {"maxRequestBodyBytes", "memRequestBodyBytes", "memResponseBodyBytes"}):
        draft.remarks.append(f"Middleware: buffering.{name} is not emulated: no effect")


def _duration(value: Any) -> float:
    """Seconds of a number (of seconds) or of ``1m30s``."""
    if isinstance(value, int):
        return float(value)
    parts = re.findall(r"([0-9.]+)(ns|us|µs|ms|s|m|h)", str(value))
    if not parts or "".join(f"{number}{unit}" for number, unit in parts) != value:
        if str(value).isdecimal():
            return float(value)
        raise ValueError(f'"{value}" should be a time such as 1s or 1m30s')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


_KINDS: Mapping[str, Callable[[Draft, dict[str, Any], _Secret], None]] = {
    "stripprefix": _strip_prefix,
    "stripprefixregex": _strip_prefix_regex,
    "addprefix": _add_prefix,
    "replacepath": _replace_path,
    "replacepathregex": _replace_path_regex,
    "redirectscheme": _redirect_scheme,
    "headers": _headers,
    "ipallowlist": _ip_allow_list,
    "basicauth": _basic_auth,
    "ratelimit": _rate_limit,
    "retry": _retry,
    "buffering": _buffering,
}
