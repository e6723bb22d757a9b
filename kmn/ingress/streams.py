"""A Service of type LoadBalancer whose load balancer is a proxy, read into the model: its TCP ports, each passed on to
node ports or pods with the client's address in front, in PROXY protocol. Pure.
"""

from __future__ import annotations

from kmn.ingress.envoy.listeners import HEALTH_PORT
from kmn.ingress.model import Backend, Entrance, HealthCheck, Owner, Protocol, Reach, Routing, Share, Stream, Upstream
from kmn.k8s.loadbalancers import is_ours, read_load_balancer
from kmn.k8s.objects import Object, name_of, namespace_of

__all__ = ["streams_of"]

# Those of a Network Load Balancer: whether a target can be connected to is asked, and three answers in a row count.
_HEALTH = HealthCheck(interval=10.0, timeout=10.0, healthy=3, unhealthy=3, grpc=True)


def streams_of(service: Object) -> Routing:
    """Nothing for a Service that asks for no such load balancer."""
    owner = Owner("Service", namespace_of(service), name_of(service))
    wish = read_load_balancer(service)
    if not is_ours(service) or wish.proxy_protocol is None:
        return Routing((), {})
    local = service["spec"].get("externalTrafficPolicy") == "Local"
    nodes = Reach.LOCAL_NODES if local else Reach.NODES  # what their health check port would tell
    reach = Reach.PODS if wish.target == "ip" else nodes
    entrances = []
    for index, port in enumerate(service["spec"].get("ports") or ()):
        if (port.get("protocol") or "TCP") != "TCP" or port["port"] == HEALTH_PORT:
            continue  # told of by the control plane
        upstream = Upstream(
            Backend(owner.namespace, owner.name, port["port"]),
            Protocol.TCP,
            reach=reach,
            health=_HEALTH,
            proxy_protocol=wish.proxy_protocol,
        )
        stream = Stream((), (Share(upstream),), owner, f"spec.ports[{index}]")
        entrances.append(Entrance(port["port"], streams=(stream,)))
    return Routing(tuple(entrances), {})
