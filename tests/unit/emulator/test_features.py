"""Refusals before anything is made, where they need no kernel."""

from __future__ import annotations

import os
from ipaddress import IPv4Address

import pytest

from kmn.cluster_spec import ClusterSpec, Link, NodeSpec, OutsideHost
from kmn.emulator import features, ovs

SPEC = ClusterSpec("demo", (NodeSpec("n1", IPv4Address("172.18.0.2")),))


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert features.problems(SPEC) == ["kmn needs root: it makes network namespaces and devices; run it with sudo"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
class TestAsRoot:
    def test_open_vswitch_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        found = features.problems(SPEC)
        programs = "ovsdb-server, ovsdb-tool, ovs-vswitchd"
        assert f"Open vSwitch: {programs}: not found; install the package openvswitch-switch" in found

    def test_the_schema_is_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
        monkeypatch.setattr(ovs, "SCHEMA", ovs.SCHEMA.with_name("missing"))
        assert any("openvswitch-switch" in problem for problem in features.problems(SPEC))

    def test_names_and_addresses_of_the_emulator(self) -> None:
        nodes = (NodeSpec("default", IPv4Address("172.18.0.2")), NodeSpec("n2", IPv4Address("172.18.0.1")))
        spec = ClusterSpec("demo", nodes, outside_hosts=(OutsideHost("e1", IPv4Address("203.0.113.10")),))
        found = " ".join(features.problems(spec))
        assert "spec.nodes[default].name" in found
        assert "spec.nodes[n2].address: 172.18.0.1 is that of router fabric" in found


def test_a_missing_module_is_told_once_for_all_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_in_scratch", lambda trial: "No such file or directory")
    slow, slower = Link(delay=0.1, loss=1.0), Link(delay=0.2)
    nodes = (NodeSpec("n1", IPv4Address("172.18.0.2"), uplink=slow, pod_link=slower),)
    netem = [problem for problem in features._link_problems(ClusterSpec("demo", nodes)) if "sch_netem" in problem]
    (problem,) = netem
    assert problem.startswith(
        "spec.nodes[n1].uplink.delay, spec.nodes[n1].uplink.loss, spec.nodes[n1].podLink.delay: this kernel cannot"
    )
