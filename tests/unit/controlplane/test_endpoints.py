"""EndpointSlices and Endpoints: computed, packed, kept."""

from __future__ import annotations

from typing import Any

from kmn.cluster_spec import ClusterSpec, Ipv6Spec
from kmn.controlplane.endpoints.compute import endpoints_by_ports, subsets
from kmn.controlplane.endpoints.packing import pack
from kmn.k8s.objects import Object, draft, labels
from kmn.k8s.resources import ENDPOINTS, ENDPOINTSLICES, PODS, SERVICES

from .world import World, in_loop, labelled, running, template

SERVICE_NAME, MANAGED_BY = "kubernetes.io/service-name", "endpointslice.kubernetes.io/managed-by"


def pod(name: str, ip: str, *, ready: bool = True, node: str = "n1", port: int = 8080, **more: Any) -> Object:
    container = {"name": "c", "ports": [{"name": "http", "containerPort": port}]}
    status = {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    meta = {**labelled(name, app="web"), "uid": f"uid-{name}", **more.pop("metadata", {})}
    spec = {"nodeName": node, "containers": [container], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def service(**spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    fields = {"selector": {"app": "web"}, "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": labelled("web"), "spec": fields}


def conditions(service: Object, *pods: Object) -> list[tuple[bool, bool, bool]]:
    found = [e["conditions"] for group in endpoints_by_ports(service, pods, {}).values() for e in group]
    return [(c["ready"], c["serving"], c["terminating"]) for c in found]


GOING = {"deletionTimestamp": "2030-01-01T00:00:00Z"}


def test_conditions_follow_the_pod() -> None:
    assert conditions(service(), pod("a", "10.0.0.2")) == [(True, True, False)]
    assert conditions(service(), pod("a", "10.0.0.2", ready=False)) == [(False, False, False)]
    assert conditions(service(), pod("a", "10.0.0.2", metadata=GOING)) == [(False, True, True)]
    always = service(publishNotReadyAddresses=True)
    assert conditions(always, pod("a", "10.0.0.2", ready=False)) == [(True, False, False)]
    assert conditions(service(), pod("a", "")) == [], "no address yet"
    ended = pod("a", "10.0.0.2")
    ended["status"]["phase"] = "Succeeded"
    assert conditions(service(), ended) == []


def test_named_ports_that_mean_different_numbers_make_different_groups() -> None:
    desired = endpoints_by_ports(service(), [pod("a", "10.0.0.2"), pod("b", "10.0.0.3", port=9090)], {"n1": "a"})
    assert {ports: [e["addresses"] for e in group] for ports, group in desired.items()} == {
        (("http", "TCP", 8080, ""),): [["10.0.0.2"]],
        (("http", "TCP", 9090, ""),): [["10.0.0.3"]],
    }
    [endpoint] = desired[(("http", "TCP", 8080, ""),)]
    assert endpoint["zone"] == "a"
    assert endpoint["targetRef"] == {"kind": "Pod", "namespace": "default", "name": "a", "uid": "uid-a"}


def test_a_pod_without_the_named_port_serves_the_others() -> None:
    two = service(
        ports=[{"name": "http", "port": 80, "targetPort": "http"}, {"name": "x", "port": 1, "targetPort": "no"}]
    )
    assert list(endpoints_by_ports(two, [pod("a", "10.0.0.2")], {})) == [(("http", "TCP", 8080, ""),)]


def test_hostname_is_given_where_the_subdomain_is_the_services() -> None:
    pods = [pod("a", "10.0.0.2", hostname="a", subdomain="web"), pod("b", "10.0.0.3", hostname="b", subdomain="other")]
    [group] = endpoints_by_ports(service(clusterIP="None"), pods, {}).values()
    assert [e.get("hostname") for e in group] == ["a", None]


def test_old_endpoints_leave_out_pods_that_are_going() -> None:
    pods = [pod("a", "10.0.0.2"), pod("b", "10.0.0.3", ready=False), pod("c", "10.0.0.4", metadata=GOING)]
    found, truncated = subsets(endpoints_by_ports(service(), pods, {}), publish_not_ready=False)
    assert not truncated
    [subset] = found
    assert [a["ip"] for a in subset["addresses"]] == ["10.0.0.2"]
    assert [a["ip"] for a in subset["notReadyAddresses"]] == ["10.0.0.3"]
    assert subset["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]


PORTS = (("http", "TCP", 80, ""),)


def endpoint(number: int, *, ready: bool = True) -> dict[str, Any]:
    return {"addresses": [f"10.0.0.{number}"], "conditions": {"ready": ready}}


def slice_of(name: str, *numbers: int) -> Object:
    ports = [{"name": "http", "protocol": "TCP", "port": 80}]
    return {"metadata": {"name": name}, "ports": ports, "endpoints": [endpoint(n) for n in numbers]}


def test_packing_fills_slices_and_touches_one_for_one_change() -> None:
    created = pack([], {PORTS: [endpoint(n) for n in range(7)]}, most=3).create
    assert [len(endpoints) for _, endpoints in created] == [3, 3, 1]
    existing = [slice_of("s1", 0, 1, 2), slice_of("s2", 3, 4, 5), slice_of("s3", 6)]
    changes = pack(existing, {PORTS: [endpoint(n, ready=n != 4) for n in range(7)]}, most=3)
    [(changed, endpoints)] = changes.update
    assert changed["metadata"]["name"] == "s2"
    assert endpoints == [endpoint(3), endpoint(4, ready=False), endpoint(5)]
    assert not changes.create
    assert not changes.delete


def test_a_new_endpoint_takes_the_room_that_another_leaves() -> None:
    existing = [slice_of("s1", 0, 1, 2), slice_of("s2", 3)]
    changes = pack(existing, {PORTS: [endpoint(n) for n in (0, 1, 3, 9)]}, most=3)
    [(changed, endpoints)] = changes.update
    assert changed["metadata"]["name"] == "s1"
    assert endpoints == [endpoint(0), endpoint(1), endpoint(9)]


def test_empty_slices_go_and_other_ports_replace_the_slice() -> None:
    changes = pack([slice_of("s1", 0), slice_of("s2", 1)], {PORTS: [endpoint(1)]}, most=1)
    assert [s["metadata"]["name"] for s in changes.delete] == ["s1"]
    other = (("http", "TCP", 81, ""),)
    changes = pack([slice_of("s1", 0)], {other: [endpoint(0)]})
    assert [s["metadata"]["name"] for s in changes.delete] == ["s1"]
    assert changes.create == [(other, [endpoint(0)])]


def test_no_endpoints_leave_one_empty_slice() -> None:
    changes = pack([slice_of("s1", 0)], {})
    assert [s["metadata"]["name"] for s in changes.delete] == ["s1"]
    assert changes.create == [((), [])]
    empty = {"metadata": {"name": "s0"}, "ports": [], "endpoints": []}
    changes = pack([empty], {})
    assert (changes.create, changes.update, changes.delete) == ([], [], [])


def deployment(replicas: int) -> Object:
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": labelled("web"), "spec": spec}


def slices(world: World, name: str = "web") -> list[Object]:
    return world.client.list(ENDPOINTSLICES, "default", label_selector=f"{SERVICE_NAME}={name}").items


def in_endpoints(world: World) -> list[str]:
    """Ready addresses of the Endpoints, which follow the slices."""
    subsets = [subset for each in world.client.list(ENDPOINTS).items for subset in each.get("subsets") or ()]
    return sorted(address["ip"] for subset in subsets for address in subset.get("addresses") or ())


def ready(world: World, name: str = "web") -> list[str]:
    found = [e for s in slices(world, name) for e in s["endpoints"] if e["conditions"]["ready"]]
    return sorted(address for e in found for address in e["addresses"])


@in_loop
async def test_slices_follow_pods_and_go_with_the_service() -> None:
    async with running("n1", "n2", kubelet=True) as world:
        world.client.create(service())
        world.client.create(deployment(3))
        await world.until(lambda: len(ready(world)) == 3)
        [found] = slices(world)
        assert labels(found)[MANAGED_BY] == "endpointslice-controller.k8s.io"
        assert found["metadata"]["ownerReferences"][0]["kind"] == "Service"
        assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
        await world.until(lambda: in_endpoints(world) == ready(world))
        first = world.pods()[0]
        world.set_status(first, "Running", ready=False)
        await world.until(lambda: len(ready(world)) == 2)
        world.client.delete(SERVICES, "default", "web")
        await world.until(lambda: not slices(world) and not world.client.list(ENDPOINTS, "default").items)


@in_loop
async def test_a_slice_that_somebody_deletes_comes_back() -> None:
    async with running("n1", kubelet=True) as world:
        world.client.create(service())
        world.client.create(deployment(1))
        await world.until(lambda: len(ready(world)) == 1)
        [found] = slices(world)
        world.client.delete(ENDPOINTSLICES, "default", found["metadata"]["name"])
        await world.until(lambda: [s for s in slices(world) if s["metadata"]["uid"] != found["metadata"]["uid"]])
        await world.until(lambda: len(ready(world)) == 1)


@in_loop
async def test_many_changes_at_once_give_one_write() -> None:
    async with running("n1") as world:
        world.client.create(service())
        world.client.create(deployment(50))
        await world.until(lambda: sum(bool(p["status"].get("podIP")) for p in world.pods()) == 50)
        await world.until(lambda: sum(len(s["endpoints"]) for s in slices(world)) == 50)
        writes: list[str] = []
        world.client.subscribe(ENDPOINTSLICES, lambda event: writes.append(event.type), replay=False)
        for item in world.pods():
            world.set_status(item, "Running", ready=True)
        await world.until(lambda: len(ready(world)) == 50)
        assert len(writes) <= 2


@in_loop
async def test_one_pods_change_touches_only_its_services() -> None:
    async with running("n1", kubelet=True) as world:
        for app in ("web", "other"):
            world.client.create({**service(selector={"app": app}), "metadata": labelled(app)})
            world.client.create(
                {"apiVersion": "v1", "kind": "Pod", "metadata": labelled(app, app=app), "spec": template()["spec"]}
            )
        await world.until(lambda: ready(world) and ready(world, "other"))
        version = slices(world, "other")[0]["metadata"]["resourceVersion"]
        world.set_status(world.get(PODS, "web"), "Running", ready=False)
        await world.until(lambda: not ready(world))
        assert slices(world, "other")[0]["metadata"]["resourceVersion"] == version


@in_loop
async def test_the_selector_of_a_service_may_change() -> None:
    async with running("n1", kubelet=True) as world:
        for app in ("web", "next"):
            world.client.create(
                {"apiVersion": "v1", "kind": "Pod", "metadata": labelled(app, app=app), "spec": template()["spec"]}
            )
        world.client.create(service())
        await world.until(lambda: ready(world) == [world.get(PODS, "web")["status"].get("podIP")])
        world.change(SERVICES, "web", lambda s: s["spec"].update(selector={"app": "next"}))
        await world.until(lambda: ready(world) == [world.get(PODS, "next")["status"].get("podIP")])


@in_loop
async def test_endpoints_of_a_service_without_selector_are_mirrored() -> None:
    async with running("n1") as world:
        bare = service()
        del bare["spec"]["selector"]
        bare["spec"]["ports"][0]["targetPort"] = 5432
        world.client.create(bare)
        subset = {
            "addresses": [{"ip": "203.0.113.10"}],
            "notReadyAddresses": [{"ip": "203.0.113.11"}],
            "ports": [{"name": "http", "port": 5432}],
        }
        world.client.create({"apiVersion": "v1", "kind": "Endpoints", "metadata": labelled("web"), "subsets": [subset]})
        await world.until(lambda: ready(world) == ["203.0.113.10"])
        [found] = slices(world)
        assert labels(found)[MANAGED_BY] == "endpointslicemirroring-controller.k8s.io"
        assert [e["conditions"]["ready"] for e in found["endpoints"]] == [True, False]
        world.change(ENDPOINTS, "web", lambda e: e["subsets"][0]["addresses"].append({"ip": "203.0.113.12"}))
        await world.until(lambda: ready(world) == ["203.0.113.10", "203.0.113.12"])
        world.client.delete(ENDPOINTS, "default", "web")
        await world.until(lambda: not slices(world))


@in_loop
async def test_skip_mirror_is_respected() -> None:
    async with running("n1") as world:
        bare = service()
        del bare["spec"]["selector"]
        meta = labelled("web")
        meta["labels"]["endpointslice.kubernetes.io/skip-mirror"] = "true"
        world.client.create(bare)
        subset = {"addresses": [{"ip": "203.0.113.10"}], "ports": [{"name": "http", "port": 5432}]}
        world.client.create({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": [subset]})
        other = {**meta, "name": "plain", "labels": {}}
        world.client.create({**bare, "metadata": {**bare["metadata"], "name": "plain"}})
        world.client.create({"apiVersion": "v1", "kind": "Endpoints", "metadata": other, "subsets": [subset]})
        await world.until(lambda: ready(world, "plain"))
        assert not slices(world)


def test_hints_follow_traffic_distribution() -> None:
    """Of ready endpoints; an endpoint of a node without a zone has no zone to hint at."""
    zones = {"n1": "a", "n2": "b"}
    pods = [pod("a", "10.0.0.2"), pod("b", "10.0.0.3", node="n2"), pod("c", "10.0.0.4", node="n3")]
    pods.append(pod("d", "10.0.0.5", ready=False))

    def hints(distribution: str | None) -> list[Any]:
        made = service(**({"trafficDistribution": distribution} if distribution else {}))
        return [e.get("hints") for group in endpoints_by_ports(made, pods, zones).values() for e in group]

    zone = [{"forZones": [{"name": "a"}]}, {"forZones": [{"name": "b"}]}]
    assert hints(None) == [None] * 4
    assert hints("PreferSameZone") == hints("PreferClose") == [*zone, None, None]
    assert hints("PreferSameNode") == [
        {**zone[0], "forNodes": [{"name": "n1"}]},
        {**zone[1], "forNodes": [{"name": "n2"}]},
        {"forNodes": [{"name": "n3"}]},
        None,
    ]


def test_endpoints_of_a_family_are_pods_with_an_address_of_it() -> None:
    both, one = pod("a", "10.0.0.2"), pod("b", "10.0.0.3")
    both["status"]["podIPs"] = [{"ip": "10.0.0.2"}, {"ip": "fd00::2"}]
    found = {
        family: [
            e["addresses"] for group in endpoints_by_ports(service(), [both, one], {}, family).values() for e in group
        ]
        for family in ("IPv4", "IPv6")
    }
    assert found == {"IPv4": [["10.0.0.2"], ["10.0.0.3"]], "IPv6": [["fd00::2"]]}


def addresses_by_type(world: World) -> dict[str, list[str]]:
    """Addresses in slices by their type."""
    return {
        piece["addressType"]: [address for endpoint in piece["endpoints"] for address in endpoint["addresses"]]
        for piece in world.client.list(ENDPOINTSLICES).items
        if labels(piece).get(SERVICE_NAME) == "web"
    }


@in_loop
async def test_slices_follow_the_families_of_the_service() -> None:
    async with running("n1", spec=ClusterSpec("hc-test", (), ipv6=Ipv6Spec()), kubelet=True) as world:
        world.client.create(service(ipFamilyPolicy="PreferDualStack"))
        world.client.create({"apiVersion": "v1", "kind": "Pod", "metadata": labelled("a", app="web"),
                             "spec": {**template()["spec"], "nodeName": "n1"}})  # fmt: skip
        four, six = ["10.244.0.2"], ["fd00:10:244::2"]
        await world.until(lambda: addresses_by_type(world) == {"IPv4": four, "IPv6": six})
        await world.until(lambda: in_endpoints(world) == four, "Endpoints are of the first family")
        changed = draft(world.get(SERVICES, "web"))
        changed["spec"]["ipFamilyPolicy"] = "SingleStack"
        world.client.update(changed)
        await world.until(lambda: addresses_by_type(world) == {"IPv4": four}, "the slice of the second family goes")


@in_loop
async def test_endpoints_of_both_families_are_mirrored() -> None:
    async with running(spec=ClusterSpec("hc-test", (), ipv6=Ipv6Spec())) as world:
        world.client.create(service(selector=None, ports=[{"port": 80}]))
        addresses = [{"ip": "198.51.100.7"}, {"ip": "2001:db8::7"}]
        world.client.create({"apiVersion": "v1", "kind": "Endpoints", "metadata": labelled("web"),
                             "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]})  # fmt: skip
        await world.until(lambda: addresses_by_type(world) == {"IPv4": ["198.51.100.7"], "IPv6": ["2001:db8::7"]})
