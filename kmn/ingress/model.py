"""What objects that route by host and path say, put together: entrances, hosts, their rules in order. Plain data.

Nothing here is Envoy's, and nothing is Ingress's: Gateways and others are read into the same model. A client comes in
by an :class:`Entrance`; a request is looked up in the :class:`Table` of it: the host, then the first rule that matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from kmn.k8s.objects import Key

__all__ = [
    "ANY_HOST",
    "PASSWORD_HASH",
    "PLAIN",
    "Action",
    "Answer",
    "Authorization",
    "Backend",
    "Balance",
    "BasicAuth",
    "Certificate",
    "Condition",
    "Cookie",
    "Cors",
    "Entrance",
    "ErrorPages",
    "Forward",
    "HashKey",
    "HeaderChange",
    "HealthCheck",
    "Host",
    "How",
    "Keyed",
    "Manner",
    "Match",
    "Mirror",
    "Owner",
    "Problem",
    "Protocol",
    "RateLimit",
    "Reach",
    "Redirect",
    "Retry",
    "Rewrite",
    "Routing",
    "Rule",
    "Share",
    "Sources",
    "Stream",
    "Table",
    "Text",
    "Treatment",
    "Upstream",
]

ANY_HOST = ""  # the name of the host of rules that name none


class Owner(NamedTuple):
    """The object that a rule is of."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def key(self) -> Key:
        return Key(self.namespace, self.name)


# --- where requests go ------------------------------------------------------------------------------------------


class Backend(NamedTuple):
    """A port of a Service, by its number or name."""

    namespace: str
    service: str
    port: int | str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}:{self.port}"


class Protocol(Enum):
    """What a proxy speaks with a backend."""

    HTTP = "http"
    H2C = "h2c"  # HTTP/2 without TLS, as gRPC has it
    HTTPS = "https"
    H2 = "h2"  # HTTP/2 within TLS
    TCP = "tcp"


class Balance(Enum):
    """How an endpoint is chosen. HASH: by the ``hash_on`` of a treatment, consistently when endpoints come and go."""

    ROUND_ROBIN = "round-robin"
    LEAST_REQUESTS = "least-requests"
    HASH = "hash"


class Reach(Enum):
    """Which addresses of a backend a proxy connects to."""

    PODS = "pods"  # its ready endpoints
    NODES = "nodes"  # its node port, of all nodes that traffic may come to
    LOCAL_NODES = "local-nodes"  # likewise, of those that have ready endpoints


class HealthCheck(NamedTuple):
    """How a proxy asks endpoints whether they are well. Those that are not get no requests, unless none is."""

    path: str = "/"
    port: int | None = None  # None: the one that requests go to
    interval: float = 15.0  # seconds
    timeout: float = 5.0  # seconds
    healthy: int = 2  # answers in a row after which an endpoint that was not is well
    unhealthy: int = 2
    codes: tuple[tuple[int, int], ...] = ((200, 200),)  # first and last: good answers
    grpc: bool = False  # only whether it can be connected to is asked

    def __str__(self) -> str:
        codes = ",".join(f"{first}-{last}" for first, last in self.codes)
        times = f"{self.interval:g}/{self.timeout:g}/{self.healthy}/{self.unhealthy}"
        port = f":{self.port}" if self.port is not None else ""
        return f"{port}{self.path} {times} {'grpc' if self.grpc else codes}"


class Upstream(NamedTuple):
    """A backend, and how the proxy deals with it. Rules that want it otherwise have an upstream of their own."""

    backend: Backend
    protocol: Protocol = Protocol.HTTP
    connect_timeout: float | None = None  # seconds; None: the proxy's own
    labels: tuple[tuple[str, str], ...] = ()  # only endpoints whose pods have these
    balance: Balance = Balance.ROUND_ROBIN
    cluster_address: bool = False  # the Service's own address, not those of its endpoints
    spare: Backend | None = None  # has the requests while the backend has no ready endpoints
    reach: Reach = Reach.PODS
    health: HealthCheck | None = None  # None: what Kubernetes says of endpoints is believed
    proxy_protocol: int | None = None  # connections begin with the client's address in PROXY protocol of this version

    def __str__(self) -> str:
        return _name_of(self)

    def _changed(self) -> Iterator[str]:
        defaults = self._field_defaults
        for name, value in self._asdict().items():
            if name in defaults and value != defaults[name]:
                yield str(value.value) if isinstance(value, Enum) else f"{name}={value}"


@lru_cache(maxsize=65536)  # asked for several times at each change, of all upstreams
def _name_of(upstream: Upstream) -> str:
    return " ".join([str(upstream.backend), *upstream._changed()])


class HeaderChange(NamedTuple):
    """Names and values; ``remove`` has names."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class Share(NamedTuple):
    """What part of the requests an upstream gets: ``weight`` of the sum. Of None, requests are answered 500."""

    upstream: Upstream | None
    weight: int = 1
    request_headers: HeaderChange = HeaderChange()
    response_headers: HeaderChange = HeaderChange()


class Forward(NamedTuple):
    """Requests go to one of the upstreams."""

    shares: tuple[Share, ...]


class Redirect(NamedTuple):
    """What is None stays as the request has it."""

    code: int = 302
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None  # all of it, the query may be in it
    prefix: str | None = None  # instead of what the rule's path has matched
    query: bool = True  # the request's is kept
    # All of the new location, instead of all fields before: {host}, {path} (without the query), {query} and {target}
    # (both) stand for the request's.
    template: str | None = None


class Answer(NamedTuple):
    """The proxy answers itself. A ``location`` is the value of that header, to the letter."""

    status: int
    body: str = ""
    content_type: str = "text/plain"
    location: str | None = None


Action: TypeAlias = Forward | Redirect | Answer


# --- which requests ---------------------------------------------------------------------------------------------


class How(Enum):
    """How a text is compared. A prefix of a path is one of path elements; a regular expression (RE2) is of all."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"
    PRESENT = "present"


class Text(NamedTuple):
    how: How
    value: str = ""
    ignore_case: bool = False


class Condition(NamedTuple):
    """On a header or a query parameter. A header that is not there is empty to a negated one."""

    name: str
    text: Text
    negated: bool = False


class Match(NamedTuple):
    """A request must fulfil all of it. A path that is a prefix has no slash at its end: "" is all paths."""

    path: Text = Text(How.PREFIX)
    methods: tuple[str, ...] = ()  # one of them; none: any
    headers: tuple[Condition, ...] = ()
    query: tuple[Condition, ...] = ()


# --- what is done with them -------------------------------------------------------------------------------------


class Rewrite(NamedTuple):
    """What the backend sees instead, besides the query. ``substitution`` stands in for what ``pattern`` finds; without
    a pattern for the path of a rule that is a regular expression: ``\\1`` is its first group."""

    host: str | None = None
    path: str | None = None
    prefix: str | None = None  # instead of what the rule's path has matched
    substitution: str | None = None
    pattern: str | None = None


class Mirror(NamedTuple):
    """A copy of this part of the requests, whose answers nobody waits for."""

    upstream: Upstream
    numerator: int = 100
    denominator: int = 100
    host: str | None = None  # that the copy is for; None: the request's


class Sources(NamedTuple):
    """Which clients may ask, by networks ("10.0.0.0/8"): those denied may not; then those allowed, if any are named.
    Others are answered 403."""

    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


# What is known of passwords (htpasswd): their SHA-1, or Apache's or crypt's MD5.
PASSWORD_HASH = re.compile(r"\{SHA\}[A-Za-z0-9+/]{27}=|\$(apr1|1)\$[./A-Za-z0-9]{0,8}\$[./A-Za-z0-9]{22}")


class BasicAuth(NamedTuple):
    """Who names none of these users and passwords is answered 401."""

    realm: str
    users: tuple[tuple[str, str], ...]  # with the hash of the password: ``{SHA}…``, ``$apr1$…`` or ``$1$…``


class Authorization(NamedTuple):
    """Somebody is asked about each request first, by one with its headers, not its body: only what he answers 2xx goes
    on, else the client has his answer."""

    upstream: Upstream
    path: str  # the query may be in it
    forwarded: tuple[str, ...] = ()  # headers of his answer that the backend gets


class ErrorPages(NamedTuple):
    """Answers with these codes are not the client's to see. It has the upstream's answer to path "/", which is told the
    code as X-Code, what was asked for as X-Original-URI and X-Format, and further headers."""

    codes: tuple[int, ...]
    upstream: Upstream
    headers: tuple[tuple[str, str], ...] = ()


class Cors(NamedTuple):
    """What scripts of pages from elsewhere are allowed, by the Fetch standard."""

    origins: tuple[Text, ...]  # EXACT or REGEX; "*" alone is PRESENT
    methods: str
    headers: str
    exposed: str = ""
    credentials: bool = False
    max_age: int | None = None  # seconds
    named: bool = False  # "*" of methods and headers is told as those that were asked for


class RateLimit(NamedTuple):
    """Of each client's address: ``requests`` in ``seconds``, and this many at once; more are answered ``status``."""

    requests: int
    seconds: int
    burst: int
    status: int = 429


class Cookie(NamedTuple):
    """One that the proxy gives clients, to know them again."""

    name: str
    path: str = "/"
    max_age: int | None = None  # seconds; None: as long as the browser runs
    attributes: tuple[tuple[str, str], ...] = ()  # further ones: Domain, SameSite, Secure

    def header(self, value: str) -> str:
        """As Set-Cookie has it."""
        age = () if self.max_age is None else (("Max-Age", str(self.max_age)),)
        parts = [(self.name, value), *age, ("Path", self.path), *self.attributes, ("HttpOnly", "")]
        return "; ".join(f"{name}={text}" if text else name for name, text in parts)


class Keyed(Enum):
    """By what requests are told apart."""

    ADDRESS = "address"  # of the client
    HEADER = "header"  # HTTP/2's ``:path``, ``:authority`` and ``:method`` among them
    QUERY = "query"
    COOKIE = "cookie"


class HashKey(NamedTuple):
    """``given``: the proxy gives a cookie to clients that have none."""

    by: Keyed
    name: str = ""
    given: Cookie | None = None


class Retry(NamedTuple):
    """A request that could not be delivered is tried with another endpoint, as are those with an answer of ``codes``
    (only with methods that may be repeated)."""

    tries: int  # all together; 1: none is tried again
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is done with a rule's requests on their way. Each field's default is to leave them as they are."""

    https_only: int | None = None  # the code that requests without TLS are redirected with
    https_without_slash: bool = False  # … and a slash at the path's end is left away
    rewrite: Rewrite | None = None
    request_headers: HeaderChange = HeaderChange()
    response_headers: HeaderChange = HeaderChange()
    mirrors: tuple[Mirror, ...] = ()
    timeout: float | None = None  # seconds for all of a request; None: no limit
    idle_timeout: float | None = None  # seconds in which nothing comes; None: the proxy's own
    retry: Retry | None = None  # None: the proxy's own
    sources: Sources | None = None
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    cors: Cors | None = None
    rate_limits: tuple[RateLimit, ...] = ()
    body_limit: int | None = None  # bytes; larger requests are answered 413
    body_streamed: bool = False  # bodies of requests go on while they come, and a limit is that of Content-Length
    hash_on: tuple[HashKey, ...] = ()  # for upstreams that are balanced by HASH
    error_pages: ErrorPages | None = None
    session: Cookie | None = None  # clients stay with an endpoint as long as it is there


PLAIN = Treatment()


class Rule(NamedTuple):
    match: Match
    action: Action
    owner: Owner
    field: str  # of the owner, that says it
    treatment: Treatment = PLAIN

    @property
    def name(self) -> str:
        """Its own, and readable: what an access log calls it by."""
        return f"{self.owner} {self.field}"

    def upstreams(self) -> Iterator[Upstream]:
        """All that its requests may go to."""
        if isinstance(self.action, Forward):
            yield from (share.upstream for share in self.action.shares if share.upstream is not None)
        yield from (mirror.upstream for mirror in self.treatment.mirrors)
        if self.treatment.authorization is not None:
            yield self.treatment.authorization.upstream
        if self.treatment.error_pages is not None:
            yield self.treatment.error_pages.upstream


class Host(NamedTuple):
    """``name`` is a DNS name in lower case, ``*.`` and one, or ANY_HOST.

    A wildcard stands for one label, or (``deep``) for any number of them.
    """

    name: str
    rules: tuple[Rule, ...]  # the first that matches counts; none: 404
    deep: bool = False


class Manner(NamedTuple):
    """How a proxy deals with requests whatever their rule."""

    keeps_forwarded_for: bool = False  # what clients say of themselves in X-Forwarded-For is kept before their address


class Table(NamedTuple):
    """Hosts, each name once. The longest name that fits counts; what its rules leave is not tried with another's."""

    hosts: tuple[Host, ...]
    manner: Manner = Manner()


# --- how they come in -------------------------------------------------------------------------------------------


class Certificate(NamedTuple):
    """Clients that ask for this host (ANY_HOST: for one that has none) are shown this Secret's certificate."""

    host: str
    secret: Key
    owner: Owner


class Stream(NamedTuple):
    """Connections that are passed on as they are: TLS for these hosts, or, without hosts, all. With a certificate TLS
    ends at the proxy."""

    hosts: tuple[str, ...]
    shares: tuple[Share, ...]
    owner: Owner
    field: str
    certificate: Key | None = None  # its Secret

    @property
    def name(self) -> str:
        """What an access log calls it by, as a rule's."""
        return " ".join([f"{self.owner} {self.field}", *self.hosts])


class Entrance(NamedTuple):
    """A port. With ``tls`` it is TLS that is spoken there."""

    port: int
    table: str | None = None  # by name; of HTTP and HTTPS
    tls: bool = False
    certificates: tuple[Certificate, ...] = ()  # each host once
    proxy_protocol: bool = False  # connections may begin with the client's address in PROXY protocol
    trusted_hops: int = 0  # proxies before this one, whose words in X-Forwarded-For and -Proto are believed
    strict: bool = False  # hosts without a certificate are refused; otherwise they are shown the default one
    streams: tuple[Stream, ...] = ()
    outside: int | None = None  # the load balancer's port, where it is another one

    @property
    def public(self) -> int:
        """The port that clients outside the cluster connect to."""
        return self.port if self.outside is None else self.outside


class Problem(NamedTuple):
    """What of an object has no effect: an Event on it says so. ``reason`` is one word, ``message`` names the field."""

    owner: Owner
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Routing:
    """All that one controller routes."""

    entrances: tuple[Entrance, ...]  # each port once
    tables: Mapping[str, Table]
    problems: tuple[Problem, ...] = ()

    def rules(self) -> Iterator[Rule]:
        """All of all tables."""
        return (rule for table in self.tables.values() for host in table.hosts for rule in host.rules)

    def streams(self) -> Iterator[Stream]:
        """All of all entrances."""
        return (stream for entrance in self.entrances for stream in entrance.streams)

    def certificates(self) -> Iterator[Certificate]:
        """All of all entrances."""
        for entrance in self.entrances:
            yield from entrance.certificates
            for stream in entrance.streams:
                if stream.certificate is not None:
                    yield Certificate(next(iter(stream.hosts), ANY_HOST), stream.certificate, stream.owner)

    def uses(self) -> dict[tuple[Owner, Upstream], None]:
        """Whose requests may go where, each once."""
        found = dict.fromkeys((rule.owner, upstream) for rule in self.rules() for upstream in rule.upstreams())
        found.update(
            dict.fromkeys((stream.owner, upstream) for stream in self.streams() for upstream in _of(stream.shares))
        )
        return found

    def upstreams(self) -> frozenset[Upstream]:
        """All that requests may go to."""
        return frozenset(upstream for _, upstream in self.uses())


def _of(shares: Iterable[Share]) -> Iterator[Upstream]:
    return (share.upstream for share in shares if share.upstream is not None)
