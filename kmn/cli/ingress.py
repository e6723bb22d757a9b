"""``kmn ingress explain``: what becomes of a request, from the objects alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit

from kmn.cli.output import dump
from kmn.cli.problems import failing_with
from kmn.cluster import Cluster
from kmn.errors import UserError
from kmn.ingress.certificates import self_signed
from kmn.ingress.explain import Asked, Explanation, Target, explain
from kmn.ingress.gateway.manifests import program_of
from kmn.ingress.match import Request, shown_path
from kmn.ingress.model import ANY_HOST
from kmn.ingress.state import RESOURCES, State, View
from kmn.k8s.client import Client
from kmn.k8s.dataplane import ALB_CONTROLLER, NLB_CONTROLLER
from kmn.k8s.objects import key_of, name_of
from kmn.k8s.resources import GATEWAYCLASSES, GATEWAYS, INGRESSCLASSES
from kmn.policy.places import Places

__all__ = ["Query", "asked_of", "chosen", "show", "state_of", "views_of"]

_FORMS = ("text", "json", "yaml")
_PORTS = {"http": 80, "https": 443}
_REFUSED, _FAILED = 1, 2  # exit codes
_SHOWN = 20  # rules that do not get the request; of more, how many


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked. ``headers`` are as curl has them: ``NAME: VALUE``."""

    url: str
    method: str = "GET"
    headers: tuple[str, ...] = ()
    client: str | None = None
    ingress_class: str | None = None
    controller: str | None = None
    output: str = "text"


def show(query: Query, cluster: str | None) -> int:
    """Print what becomes of a request; 0 if it is forwarded or redirected, 1 if not. All errors have exit code 2."""
    with failing_with(_FAILED):
        return _show(query, cluster)


def _show(query: Query, cluster: str | None) -> int:
    if query.output not in _FORMS:
        raise UserError(f"-o {query.output}: not known", ", ".join(_FORMS))
    asked = asked_of(query)
    with Cluster.attach(cluster) as running:
        client = running.client
        state, places = state_of(client), _places(client)
        views = views_of(state)
        controllers = _at(asked, _controllers(query, client, sorted(views)), state.addresses)
    found = [
        explain(
            asked,
            controller,
            views[controller],
            lambda address: _name(places, address),
            partial(state.alone, controller),
        )
        for controller in controllers
    ]
    answer = chosen(found)
    if query.output == "text":
        _print(answer)
    else:
        dump(answer.as_json(), query.output)
    return 0 if answer.good else _REFUSED


def asked_of(query: Query) -> Asked:
    """The request that a client would send. Raises UserError, naming what cannot be understood."""
    url = query.url if "://" in query.url else f"http://{query.url}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UserError(f"{query.url}: {error}", "http://HOST/PATH or https://HOST/PATH") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise UserError(f"{query.url}: not understood", "http://HOST/PATH or https://HOST/PATH")
    if query.client is not None:
        try:
            ip_address(query.client)
        except ValueError:
            raise UserError(f"--from {query.client}: no address", "such as 203.0.113.10") from None
    headers = [_header(text) for text in query.headers]
    own = next((value for name, value in headers if name.lower() == "host"), None)
    fields = tuple((name, value) for name, value in headers if name.lower() != "host")
    if query.client is not None:
        fields += (("X-Forwarded-For", query.client),)  # proxies add it before they look for a rule
    host = parts.netloc.rpartition("@")[2] if own is None else own
    request = Request(host, parts.path or "/", query.method.upper(), parts.query, fields)
    # The name that TLS asks for is that of the URL, as with curl; it is looked up by the header's where they differ.
    return Asked(request, parts.scheme, port or _PORTS[parts.scheme], query.client or "", parts.hostname)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise UserError(f"-H {text}: not understood", "-H 'NAME: VALUE'")
    return name.strip(), value.strip()


def state_of(client: Client) -> State:
    """All that ingress controllers know now."""
    state = State(self_signed("explain"))
    for resource in RESOURCES:
        for obj in client.list(resource).items:
            state.update(resource, key_of(obj), obj)
    return state


def views_of(state: State) -> dict[str, View]:
    """What those do that have proxies, by the names that their counts have."""
    return state.views()


def _places(client: Client) -> Places:
    places = Places()
    for resource in Places.resources:
        for obj in client.list(resource).items:
            places.put(resource, key_of(obj), obj)
    return places


def _controllers(query: Query, client: Client, known: list[str]) -> list[str]:
    """Those that are asked. Raises UserError when there is none of the name."""
    wanted = query.controller
    if query.ingress_class is not None:
        classes = {name_of(obj): obj["spec"].get("controller") for obj in client.list(INGRESSCLASSES).items}
        of_gateways = {name_of(obj) for obj in client.list(GATEWAYCLASSES).items}
        if query.ingress_class in of_gateways - classes.keys():
            return _gateways(query.ingress_class, client, known)
        if query.ingress_class not in classes:
            there = ", ".join([*classes, *sorted(of_gateways - classes.keys())]) or "none"
            raise UserError(f"no IngressClass or GatewayClass {query.ingress_class}", f"there are: {there}")
        wanted = classes[query.ingress_class]
    if wanted in (ALB_CONTROLLER, NLB_CONTROLLER):  # of which each load balancer is one
        return [each for each in known if each.startswith(f"{wanted} ")] or _none(known)
    if wanted is not None and wanted not in known:
        raise UserError(f"controller {wanted} has no pod", f"those that have: {', '.join(known) or 'none'}")
    if not known:
        raise UserError("no ingress controller runs", "an Ingress of class nginx starts one")
    return [wanted] if wanted is not None else known


def _gateways(of_class: str, client: Client, known: list[str]) -> list[str]:
    """Those of a class."""
    gateways = (obj for obj in client.list(GATEWAYS).items if obj["spec"].get("gatewayClassName") == of_class)
    found = [name for name in map(program_of, map(key_of, gateways)) if name in known]
    if not found:
        raise UserError(f"no Gateway of class {of_class} is there", f"what is: {', '.join(known) or 'nothing'}")
    return found


def _none(known: list[str]) -> list[str]:
    raise UserError("no such load balancer is there", f"what is: {', '.join(known) or 'nothing'}")


def _at(asked: Asked, controllers: list[str], addresses: Callable[[str], Collection[str]]) -> list[str]:
    """Those that have the address, or name of a load balancer, that the URL names; all, if none has."""
    return [each for each in controllers if asked.server_name in addresses(each)] or controllers


def _name(places: Places, address: str) -> str:
    try:
        return str(places.at(ip_address(address)))
    except ValueError:
        return address  # of a Service of type ExternalName


def chosen(found: Sequence[Explanation]) -> Explanation:
    """Several controllers have an address each: the one is meant that has a rule for it, or the one with the most
    specific host. Raises UserError where that does not tell."""
    ruled = [each for each in found if each.winner is not None]
    nearest = max((_specificity(each) for each in ruled), default=None)
    ruled = [each for each in ruled if _specificity(each) == nearest]
    if len(found) > 1 and len(ruled) != 1:
        names = ", ".join(shlex.quote(each.controller) for each in ruled or found)
        why = "several controllers have a rule for it" if ruled else "no controller has a rule for it"
        raise UserError(f"{found[0].asked}: {why}: {names}", "--controller or --class says which one is asked")
    return ruled[0] if ruled else found[0]


def _specificity(found: Explanation) -> tuple[bool, int]:
    host = found.host or ANY_HOST
    return host != ANY_HOST and not host.startswith("*."), len(host)


# --- as text ----------------------------------------------------------------------------------------------------


def _print(found: Explanation) -> None:
    print(f"{found.asked}: {found.verdict}")
    for line in _lines(found):
        print(f"  {line}")


def _lines(found: Explanation) -> Iterable[str]:
    yield f"controller {found.controller}, {found.entrance}"
    if found.host is not None:
        yield f"host: {found.host or '(rules without a host)'}"
    if found.winner is not None:
        rule = found.winner.rule
        yield f"rule: {rule.name}: {shown_path(rule.match.path)}"
    if found.reason:
        yield f"why: {found.reason}"
    if found.location is not None:
        yield f"to: {found.location}"
    yield from found.treatment
    for target in found.targets:
        yield from _target(target, alone=len(found.targets) == 1)
    for candidate in found.others[:_SHOWN]:
        host = f" ({candidate.host or 'no host'})" if candidate.host != found.host else ""
        yield f"not {candidate.rule.name}{host}: {candidate.why}"
    if len(found.others) > _SHOWN:
        yield f"nor {len(found.others) - _SHOWN} rules more: -o json has them all"
    yield from (f"note: {note}" for note in found.notes)


def _target(target: Target, *, alone: bool) -> Iterable[str]:
    part = "" if alone else f", {target.percent:.3g} % of the requests"
    spoken = "" if target.protocol == "http" else f", {target.protocol}"
    yield f"backend: {target.backend}{spoken}{part}"
    yield from (f"  {end}" for end in target.endpoints)
    if not target.endpoints:
        yield f"  503: {target.problem or 'no ready endpoint'}"
