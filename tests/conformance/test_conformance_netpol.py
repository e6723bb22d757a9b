"""NetworkPolicy cases by real packets: every cell of every table over TCP and UDP, from every pod to every other.

SCTP is left out: kernels without CONFIG_IP_SCTP have no such sockets. The same cells, SCTP included, are answered from
the objects alone in ``test_conformance_netpol_objects``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from casefiles import Case, folder_of, load, parametrize
from emulation import Emulation
from outside import Servers
from policycluster import PolicyCluster
from policyworld import Table, differing
from test_conformance_netpol_objects import FILES

from kmn import Cluster

pytestmark = pytest.mark.packet


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, name in FILES.items():
        if argument in metafunc.fixturenames:
            parametrize(metafunc, argument, name, "cases", lambda case, data: None)


@pytest.fixture(scope="module")
def world(running: Cluster, servers: Servers) -> Iterator[PolicyCluster]:
    world = PolicyCluster(Emulation(running), servers)
    yield world
    world.begin([])


def test_case(case: Case, world: PolicyCluster, pytestconfig: pytest.Config) -> None:
    _run(case, load(pytestconfig, FILES["case"]), world, pytestconfig)


def test_cyclonus(cyclonus: Case, world: PolicyCluster, pytestconfig: pytest.Config) -> None:
    _run(cyclonus, load(pytestconfig, FILES["cyclonus"]), world, pytestconfig)


def _run(case: Case, data: dict[str, Any], world: PolicyCluster, config: pytest.Config) -> None:
    fixture = [] if case.get("fixture") == "none" else data["fixture"]
    world.begin(fixture)
    try:
        for number, step in enumerate(case["steps"]):
            refused = world.run(step, world.addresses())
            assert refused == bool(step.get("refused"))
            for probe, stated in (step.get("expect") or {}).items():
                protocol, _, port = probe.partition("/")
                if protocol == "SCTP":
                    continue
                expected = stated
                if "ip-layout" in case["tags"]:
                    expected = _computed(case, number, probe, world, fixture, config)
                found = world.table(protocol, int(port), expected)
                different = differing(found, expected, case)
                assert not different, f"step {number}, {probe}: found {different}"
    finally:
        world.clean()


def _computed(
    case: Case, number: int, probe: str, world: PolicyCluster, fixture: list[Any], config: pytest.Config
) -> Table:
    """What the reference evaluator says for the addresses that pods really have."""
    protocol, _, port = probe.partition("/")
    reference = _reference(config)
    for step, cluster, _ in reference.run(fixture, case["steps"], world.addresses(), world.external()):
        if step == number:
            table: Table = cluster.table([(protocol, int(port))])[probe]
            return table
    raise AssertionError(f"the reference evaluator knows no step {number}")


def _reference(config: pytest.Config) -> ModuleType:
    spec = importlib.util.spec_from_file_location("refeval", folder_of(config) / "netpol" / "refeval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
