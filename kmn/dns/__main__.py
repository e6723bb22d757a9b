"""``python -m kmn.dns --kubeconfig PATH``: the DNS process of a cluster. Serves all pods that carry the annotation."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from pathlib import Path

import uvloop

from kmn.dns.config import DnsConfig
from kmn.dns.internet import HostServers
from kmn.dns.responder import Responder
from kmn.dns.server import placement_of
from kmn.dns.zone import Zone
from kmn.k8s.errors import ApiError
from kmn.k8s.feed import Feed
from kmn.k8s.objects import Key, Object
from kmn.k8s.resources import APPLICATIONLOADBALANCERS, CLUSTERS, EDGES, PODS, Resource
from kmn.k8s.rest import RestClient
from kmn.programs.serving import serve

__all__ = ["main"]

log = logging.getLogger("kmn.dns")


def read_config(client: RestClient) -> DnsConfig:
    """What the API's one Cluster says. Raises ApiError, ValueError."""
    clusters = client.list(CLUSTERS).items
    if len(clusters) != 1:
        raise ValueError(f"{len(clusters)} Cluster objects in the API: exactly one is expected")
    return DnsConfig.from_cluster(clusters[0])


async def answer(client: RestClient, config: DnsConfig) -> None:
    """Answer until SIGTERM or SIGINT."""
    zone = Zone(config)
    placement = placement_of(Responder(zone))

    def apply(resource: Resource, key: Key, obj: Object | None) -> None:
        zone.update(resource, key, obj)
        if resource is PODS:
            placement.update(key, obj)

    async def answer_pods() -> None:
        gc.freeze()  # ten thousand Services' objects need not be walked again and again for the garbage of the answers
        await placement.run()

    hosts = HostServers()  # the internet's DNS, which knows nothing of the cluster but its load balancers
    outside = (EDGES, APPLICATIONLOADBALANCERS)
    feeds = (Feed(client, Zone.resources, apply), Feed(client, outside, hosts.update))
    await serve(feeds, (answer_pods, hosts.run))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kmn.dns", description="The DNS server of one cluster.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="how to reach the cluster's API")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        client = RestClient.from_kubeconfig(args.kubeconfig)
        config = read_config(client)
    except (ApiError, OSError, ValueError) as error:
        log.error("%s", error)
        return 1
    uvloop.run(answer(client, config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
