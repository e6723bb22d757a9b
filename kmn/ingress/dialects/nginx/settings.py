"""What an Ingress's annotations say of all its locations: from text to the terms of the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from kmn.ingress.dialects.nginx.access import (
    ask_for_certificates,
    authorization_of,
    basic_auth_of,
    cors_of,
    rate_limits_of,
    sources_of,
)
from kmn.ingress.dialects.nginx.annotations import Annotations, size_of
from kmn.ingress.dialects.nginx.balancing import Balancing, balancing_of
from kmn.ingress.dialects.nginx.canary import Canary, canary_of
from kmn.ingress.dialects.nginx.configmap import Defaults
from kmn.ingress.dialects.nginx.services import service_of_url, spare_of
from kmn.ingress.model import (
    Answer,
    Backend,
    Cookie,
    ErrorPages,
    HashKey,
    HeaderChange,
    Mirror,
    Owner,
    Protocol,
    Retry,
    Rewrite,
    Treatment,
    Upstream,
)
from kmn.ingress.routing import Find
from kmn.k8s.objects import Key
from kmn.k8s.resources import CONFIGMAPS

__all__ = ["Settings", "settings_of"]

_PROTOCOLS = {"HTTP": Protocol.HTTP, "HTTPS": Protocol.HTTPS, "GRPC": Protocol.H2C, "GRPCS": Protocol.H2}
_NOT_HERE = {
    "AUTO_HTTP": "backends are spoken to in HTTP, whatever clients speak",
    "FCGI": "backends are spoken to in HTTP",
}
_DENIED = 503
_ALIAS = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_TRIES = 3  # as upstream's proxy-next-upstream-tries
_MANY_TRIES = 10  # for 0: no limit
_FAILURE = r"(error|timeout|invalid_header|http_[1-5][0-9][0-9]|non_idempotent|off)"
_FAILURES = rf"{_FAILURE}(\s+{_FAILURE})*"


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one Ingress."""

    owner: Owner
    treatment: Treatment
    upstream: Upstream  # as its backends are dealt with; the backend is to be put in
    balancing: Balancing
    answer: Answer | None  # instead of forwarding
    canary: Canary | None
    ssl_redirect: bool
    force_ssl_redirect: bool
    rewrite_target: str | None
    forwarded_prefix: str | None  # told to backends where paths are rewritten
    use_regex: bool
    app_root: str | None
    from_to_www: bool
    aliases: tuple[str, ...]
    passthrough: bool

    def upstream_of(self, backend: Backend) -> Upstream:
        """A backend, as the annotations have it."""
        return self.upstream._replace(backend=backend, balance=self.balancing.balance)

    def session_at(self, path: str) -> Cookie | None:
        """The cookie that keeps clients with an endpoint, given for this path if it names none itself."""
        cookie = self.balancing.session
        return cookie and cookie._replace(path=cookie.path or path)

    def hash_on_at(self, path: str) -> tuple[HashKey, ...]:
        """What requests are told apart by; cookies are given for this path if they name none themselves."""
        return tuple(
            key._replace(given=key.given._replace(path=key.given.path or path)) if key.given else key
            for key in self.balancing.hash_on
        )


def settings_of(owner: Owner, given: Annotations, defaults: Defaults, find: Find) -> Settings:
    """Raises Refused for what makes upstream refuse the Ingress."""
    given.check_snippets(allowed=defaults.snippets)
    protocol = _protocol(given)
    at_once = given.choice("proxy-request-buffering", "on", "off") == "off"
    treatment = Treatment(
        https_without_slash=not given.flag("preserve-trailing-slash"),
        rewrite=_host_rewrite(given),
        response_headers=_custom_headers(given, defaults, find),
        mirrors=_mirrors(given, find),
        idle_timeout=given.number("proxy-read-timeout", 1) or defaults.read_timeout,
        retry=_retry(given),
        error_pages=_error_pages(owner, given, find),
        sources=sources_of(given),
        basic_auth=basic_auth_of(owner, given, find),
        authorization=authorization_of(given, find),
        cors=cors_of(given),
        rate_limits=rate_limits_of(given, defaults.limit_code),
        body_limit=_body_limit(given, defaults),
        body_streamed=at_once or protocol in (Protocol.H2C, Protocol.H2),
    )
    upstream = Upstream(
        Backend(owner.namespace, "", 0),
        protocol,
        connect_timeout=given.number("proxy-connect-timeout", 1) or defaults.connect_timeout,
        cluster_address=given.flag("service-upstream"),
        spare=spare_of(owner, given, find),
    )
    ask_for_certificates(given)
    redirect = _redirect(given)
    return Settings(
        owner,
        treatment,
        upstream,
        balancing_of(given),
        Answer(_DENIED) if given.denies else redirect,
        canary_of(given),
        ssl_redirect=given.flag("ssl-redirect", defaults.ssl_redirect),
        force_ssl_redirect=given.flag("force-ssl-redirect", defaults.force_ssl_redirect),
        rewrite_target=_rewrite_target(given),
        forwarded_prefix=given.text("x-forwarded-prefix"),
        use_regex=given.flag("use-regex"),
        app_root=given.matching("app-root", r"/[^\s#?]*", "must be an absolute path"),
        from_to_www=given.flag("from-to-www-redirect"),
        aliases=_aliases(given),
        passthrough=given.flag("ssl-passthrough"),
    )


def _protocol(given: Annotations) -> Protocol:
    value = given.text("backend-protocol")
    if value is None:
        return Protocol.HTTP
    if value.upper() in _NOT_HERE:
        given.not_emulated("backend-protocol", _NOT_HERE[value.upper()])
    elif value.upper() not in _PROTOCOLS:
        given.invalid("backend-protocol", f"must be one of {', '.join([*_PROTOCOLS, *_NOT_HERE])}")
    return _PROTOCOLS.get(value.upper(), Protocol.HTTP)


def _body_limit(given: Annotations, defaults: Defaults) -> int | None:
    value = given.text("proxy-body-size")
    if value is None:
        return defaults.body_size
    try:
        return size_of(value) or None  # 0: no limit
    except ValueError as error:
        given.invalid("proxy-body-size", str(error))
        return defaults.body_size


def _retry(given: Annotations) -> Retry:
    tries = given.number("proxy-next-upstream-tries")
    failures = given.matching("proxy-next-upstream", _FAILURES, "must be error, timeout, http_502 and the like, or off")
    words = (failures or "error timeout").split()
    if "off" in words:
        return Retry(1)
    codes = tuple(int(word[5:]) for word in words if word.startswith("http_"))
    return Retry((tries or _MANY_TRIES) if tries is not None else _TRIES, codes)


def _redirect(given: Annotations) -> Answer | None:
    """``return`` of a location: before all that is asked of clients."""
    temporal = _returned(given, "temporal-redirect", 302, last=307)
    permanent = _returned(given, "permanent-redirect", 301, last=308)
    return temporal or permanent


def _returned(given: Annotations, name: str, default: int, last: int) -> Answer | None:
    code, url = given.number(f"{name}-code"), given.text(name)
    if url is None:
        return None
    if not urlsplit(url).scheme.startswith("http") or any(letter in url for letter in "\r\n$ "):
        raise given.refuse(name, f'"{url}": must be a URL that begins with http:// or https://')
    return Answer(code if code is not None and 300 <= code <= last else default, location=url)


def _rewrite_target(given: Annotations) -> str | None:
    target = given.matching("rewrite-target", r"/?[-.~\w/:$]*", "must be a path of letters, digits, $1 … and -._~/:")
    if target is not None and "://" in target:
        given.not_emulated("rewrite-target", "use permanent-redirect or temporal-redirect for other hosts")
        return None
    return target


def _host_rewrite(given: Annotations) -> Rewrite | None:
    host = given.text("upstream-vhost")
    if host is None:
        return None
    if "$" in host:
        given.not_emulated("upstream-vhost", "variables are not known: name a host")
        return None
    return Rewrite(host=host)


def _aliases(given: Annotations) -> tuple[str, ...]:
    found = given.several("server-alias")
    if any(name.startswith("~") for name in found):
        given.not_emulated("server-alias", "regular expressions of hosts are not known: name them")
    names = [name.lower().removesuffix(".") for name in found if not name.startswith("~")]
    if wrong := [name for name in names if _ALIAS.fullmatch(name) is None]:
        given.invalid("server-alias", f"{', '.join(wrong)}: must be names of hosts")
    return tuple(name for name in names if name not in wrong)


def _mirrors(given: Annotations, find: Find) -> tuple[Mirror, ...]:
    target, host = given.text("mirror-target"), given.text("mirror-host")
    if target is None:
        return ()
    url = target.removesuffix("$request_uri")
    try:
        upstream, path = service_of_url(url, find)
    except ValueError as error:
        given.not_emulated("mirror-target", str(error))
        return ()
    if path not in ("", "/") or (url == target and not path):
        given.not_emulated("mirror-target", "copies keep the request's path: end the URL in $request_uri")
    return (Mirror(upstream, host=host or urlsplit(url).netloc),)


def _error_pages(owner: Owner, given: Annotations, find: Find) -> ErrorPages | None:
    """``custom-http-errors``. The controller has no backend for them of its own: without ``default-backend`` there are
    none."""
    codes = given.matching(
        "custom-http-errors", r"([45]\d\d\s*,?\s*)+", "must be codes of 400 to 599, with commas between"
    )
    if codes is None:
        return None
    spare = spare_of(owner, given, find)
    if spare is None:
        given.not_emulated("custom-http-errors", "name the Service that has the pages with annotation default-backend")
        return None
    headers = (("X-Namespace", owner.namespace), ("X-Ingress-Name", owner.name))
    return ErrorPages(tuple(map(int, re.findall(r"\d{3}", codes))), Upstream(spare), headers)


def _custom_headers(given: Annotations, defaults: Defaults, find: Find) -> HeaderChange:
    """Of responses. All or none."""
    name = given.text("custom-headers")
    if name is None:
        return HeaderChange()
    namespace, _, own = name.rpartition("/")
    found = find(CONFIGMAPS, Key(namespace, own))
    headers = (found or {}).get("data") or {}
    if found is None:
        given.denied("custom-headers", f'"{name}": must be NAMESPACE/NAME of a ConfigMap')
    elif unknown := [header for header in headers if header.lower() not in defaults.response_headers]:
        which = ", ".join(sorted(unknown))
        given.denied("custom-headers", f"global-allowed-response-headers of the ConfigMap does not have {which}")
        return HeaderChange()
    return HeaderChange(set=tuple(sorted(headers.items())))
