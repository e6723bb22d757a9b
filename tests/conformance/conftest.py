"""One emulation for all conformance cases: nodes n1 and n2, outside hosts e1 and e2."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from actions import Actions
from emulation import Emulation
from outside import UPSTREAM_NAMES, Servers

from kmn import Cluster

_SPEC = {
    "nodes": [{"name": "n1"}, {"name": "n2"}],
    # The cases bring names of their own for the internet: the tests serve them.
    "internet": {"hosts": [{"name": "e1", "dns": False}, {"name": "e2", "dns": False}]},
    "probes": {"initialDelay": "0s"},
    "dns": {"upstreams": ["e1"], "stubDomains": {"corp.test": ["e2"]}},
}


@pytest.fixture(scope="session")
def running() -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    meta = {"name": f"ho{os.getpid()}"}
    with Cluster({"apiVersion": "kmn.io/v1", "kind": "Cluster", "metadata": meta, "spec": _SPEC}) as cluster:
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="session")
def servers(running: Cluster) -> Iterator[Servers]:
    servers = Servers()
    servers.serve_dns(running.host("e1").netns, UPSTREAM_NAMES)
    yield servers
    servers.close()


@pytest.fixture
def actions(running: Cluster, servers: Servers) -> Iterator[Actions]:
    """For one case; all that it makes is gone afterwards."""
    actions = Actions(Emulation(running), servers)
    yield actions
    actions.clean()
