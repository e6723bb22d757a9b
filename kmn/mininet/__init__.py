"""A running cluster as a Mininet network: for the Mininet CLI, for scripts, for people who know Mininet.

The network object is a view. It owns nothing but the shells that it starts: pods, nodes and bridges are the cluster's,
and any number of processes can have a view of the same cluster.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

_plain = logging.getLoggerClass()
import mininet.log  # noqa: E402, F401  # makes all loggers to come its own: each with a handler on standard error

logging.setLoggerClass(_plain)

if TYPE_CHECKING:
    from kmn.k8s.client import Client
    from kmn.mininet.net import ClusterNet

__all__ = ["build"]


def build(client: Client, cluster: str) -> ClusterNet:
    """A view of the running cluster called ``cluster``, whose API is ``client``."""
    from kmn.mininet.net import ClusterNet

    net = ClusterNet(client, cluster)
    net.refresh()
    return net
