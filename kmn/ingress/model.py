"""What objects that route by host and path say, put together: entrances, hosts, their rules in order. Plain data.

Nothing here is Envoy's, and nothing is Ingress's: Gateways and others are read into the same model. A client comes in
by an :class:`Entrance`; a request is looked up in the :class:`Table` of it: the host, then the first rule that matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

from kmn.k8s.objects import Key

__all__ = [
    "ANY_HOST",
    "Action",
    "Answer",
    "Backend",
    "Certificate",
    "Condition",
    "Entrance",
    "Forward",
    "HeaderChange",
    "HealthCheck",
    "Host",
    "How",
    "Manner",
    "Match",
    "Mirror",
    "Owner",
    "Problem",
    "Protocol",
    "Reach",
    "Redirect",
    "Rewrite",
    "Routing",
    "Rule",
    "Share",
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


class Reach(Enum):
    """Which addresses of a backend a proxy connects to."""

    PODS = "pods"  # its ready endpoints
    NODES = "nodes"  # its node port, of all nodes that traffic may come to


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
        return (
            f"health({':' + str(self.port) if self.port else ''}{self.path} {times} {'grpc' if self.grpc else codes})"
        )


class Upstream(NamedTuple):
    """A backend, and how the proxy deals with it. Rules that want it otherwise have an upstream of their own."""

    backend: Backend
    protocol: Protocol = Protocol.HTTP
    connect_timeout: float | None = None  # seconds; None: the proxy's own
    reach: Reach = Reach.PODS
    health: HealthCheck | None = None  # None: what Kubernetes says of endpoints is believed

    def __str__(self) -> str:
        own = [str(value.value if isinstance(value, Enum) else value) for value in self._changed()]
        return " ".join([str(self.backend), *own])

    def _changed(self) -> Iterator[object]:
        defaults = self._field_defaults
        return (value for name, value in self._asdict().items() if name in defaults and value != defaults[name])


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
    # All of the new location, instead of all fields before: {host}, {path} (without the query), {query} and {target}
    # (both) stand for the request's.
    template: str | None = None


class Answer(NamedTuple):
    """The proxy answers itself."""

    status: int
    body: str = ""
    content_type: str = "text/plain"


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
    """What the backend sees instead, besides the query. ``substitution`` is for a rule whose path is a regular
    expression: ``\\1`` is its first group."""

    host: str | None = None
    path: str | None = None
    prefix: str | None = None  # instead of what the rule's path has matched
    substitution: str | None = None


class Mirror(NamedTuple):
    """A copy of this part of the requests, whose answers nobody waits for."""

    upstream: Upstream
    numerator: int = 100
    denominator: int = 100


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is done with a rule's requests on their way. Each field's default is to leave them as they are."""

    https_only: int | None = None  # the code that requests without TLS are redirected with
    rewrite: Rewrite | None = None
    request_headers: HeaderChange = HeaderChange()
    response_headers: HeaderChange = HeaderChange()
    mirrors: tuple[Mirror, ...] = ()
    timeout: float | None = None  # seconds for all of a request; None: no limit
    idle_timeout: float | None = None  # seconds in which nothing comes; None: the proxy's own


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
    """Connections that are passed on as they are: TLS for these hosts (not taken apart), or, without hosts, all."""

    hosts: tuple[str, ...]
    shares: tuple[Share, ...]
    owner: Owner
    field: str


class Entrance(NamedTuple):
    """A port. With ``tls`` it is TLS that is spoken there."""

    port: int
    table: str | None = None  # by name; of HTTP and HTTPS
    tls: bool = False
    certificates: tuple[Certificate, ...] = ()  # each host once
    strict: bool = False  # hosts without a certificate are refused; otherwise they are shown the default one
    streams: tuple[Stream, ...] = ()


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

    def certificates(self) -> Iterator[Certificate]:
        """All of all entrances."""
        return (certificate for entrance in self.entrances for certificate in entrance.certificates)

    def uses(self) -> dict[tuple[Owner, Upstream], None]:
        """Whose requests may go where, each once."""
        found = dict.fromkeys((rule.owner, upstream) for rule in self.rules() for upstream in rule.upstreams())
        streams = (stream for entrance in self.entrances for stream in entrance.streams)
        found.update(dict.fromkeys((stream.owner, upstream) for stream in streams for upstream in _of(stream.shares)))
        return found

    def upstreams(self) -> frozenset[Upstream]:
        """All that requests may go to."""
        return frozenset(upstream for _, upstream in self.uses())


def _of(shares: Iterable[Share]) -> Iterator[Upstream]:
    return (share.upstream for share in shares if share.upstream is not None)
