"""What is stored without an effect is told on the object: whole kinds, and single fields of others."""

from __future__ import annotations

from typing import Any

from kmn.k8s.resources import CLUSTERNETWORKPOLICIES

from .world import in_loop, running


def policy(*names: str) -> dict[str, Any]:
    rules = [{"action": "Accept", "to": [{"domainNames": [name]} for name in names]}]
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": rules}
    meta = {"name": "names"}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": meta,
        "spec": spec,
    }


@in_loop
async def test_domain_names_of_policies() -> None:
    async with running() as world:
        world.client.create(policy("example.com"))
        told = "ClusterNetworkPolicy names: spec.egress[0].to[{}].domainNames: not emulated: names are not followed to "
        (first,) = await world.until(lambda: world.events("NotEmulated"))
        assert first.startswith(told.format(0))
        world.change(CLUSTERNETWORKPOLICIES, "names", lambda obj: obj.update(spec=policy("a.com", "b.com")["spec"]))
        await world.until(lambda: len(world.events("NotEmulated")) == 2)
        assert any(message.startswith(told.format(1)) for message in world.events("NotEmulated"))
