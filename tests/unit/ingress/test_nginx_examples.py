"""The examples of ingress-nginx' own documentation: what of each Ingress is in force, and what is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from published import APPS

from kmn.ingress.dialects import dialect_of
from kmn.ingress.model import Answer
from kmn.k8s.errors import ApiError
from kmn.k8s.manifests import ManifestError, load
from kmn.k8s.objects import Key, Object, name_of
from kmn.k8s.resources import Resource

FOLDER = APPS / "ingress-nginx-examples" / "docs" / "examples"

# File, Ingress, outcome, and how what is told begins: a reason, the annotation, and why.
SERVED, DENIED, NOT_TAKEN = "served", "503", "not taken"
NO_SERVICE = "is no Service of this cluster"
NO_URL = 'must be "http://NAME.NAMESPACE.svc.cluster.local/PATH"'
OUTCOMES = [
    ("affinity/cookie/ingress-samesite.yaml", "cookie-samesite-none", SERVED,
     [("NotEmulated", "session-cookie-conditional-samesite-none", "has no effect")]),
    ("affinity/cookie/ingress-samesite.yaml", "cookie-samesite-strict", SERVED, []),
    ("affinity/cookie/ingress.yaml", "nginx-test", SERVED, []),
    ("auth/client-certs/ingress.yaml", "nginx-test", DENIED,
     [("Denied", "auth-tls-secret", "clients are not asked for certificates"),
      ("NotEmulated", "auth-tls-error-page", "has no effect"),
      ("NotEmulated", "auth-tls-pass-certificate-to-upstream", "has no effect"),
      ("NotEmulated", "auth-tls-verify-depth", "has no effect")]),
    ("auth/external-auth/ingress.yaml", "external-auth", DENIED, [("Denied", "auth-url", NO_SERVICE)]),
    ("auth/oauth-external-auth/oauth2-proxy.yaml", "external-auth-oauth2", DENIED,
     [("Denied", "auth-url", NO_URL), ("NotEmulated", "auth-signin", "has no effect")]),
    ("auth/oauth-external-auth/oauth2-proxy.yaml", "oauth2-proxy", SERVED, []),
    ("auth/oauth-external-auth/vouch-proxy.yaml", "external-auth-oauth2", DENIED,
     [("Denied", "auth-url", NO_URL), ("NotEmulated", "auth-signin", "has no effect")]),
    ("auth/oauth-external-auth/vouch-proxy.yaml", "vouch-proxy", SERVED, []),
    ("chashsubset/deployment.yaml", "nginxhello-ingress", SERVED,
     [("NotEmulated", "upstream-hash-by-subset", "has no effect"),
      ("NotEmulated", "upstream-hash-by-subset-size", "has no effect")]),
    ("customization/configuration-snippets/ingress.yaml", "nginx-configuration-snippet", NOT_TAKEN,
     [("Rejected", "configuration-snippet", "snippets are refused")]),
    ("customization/external-auth-headers/echo-service.yaml", "public-demo-echo-service", SERVED, []),
    ("customization/external-auth-headers/echo-service.yaml", "secure-demo-echo-service", SERVED, []),
    ("docker-registry/ingress-with-tls.yaml", "docker-registry", SERVED, []),
    ("docker-registry/ingress-without-tls.yaml", "docker-registry", SERVED, []),
    ("multi-tls/multi-tls.yaml", "foo-tls", SERVED, []),
    ("openpolicyagent/tests/should-allow-ns-except.yaml", "simple", SERVED, []),
    ("openpolicyagent/tests/should-allow.yaml", "simple", SERVED, []),
    ("openpolicyagent/tests/should-deny.yaml", "simple", SERVED, []),
    ("static-ip/nginx-ingress.yaml", "ingress-nginx", SERVED, []),
    ("tls-termination/ingress.yaml", "nginx-test", SERVED, []),
]  # fmt: skip

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not there")


def objects_of(*files: Path) -> list[Object]:
    found = []
    for each in sorted(files):
        try:
            found += load([each], namespace="default")
        except (ManifestError, ApiError):
            continue  # custom resources, values of a chart
    return found


def test_all_of_them_are_in_the_table() -> None:
    found = {
        (str(file.relative_to(FOLDER)), name_of(obj))
        for file in FOLDER.rglob("*.yaml")
        for obj in objects_of(file)
        if obj["kind"] == "Ingress"
    }
    assert found == {(file, name) for file, name, _, _ in OUTCOMES}


@pytest.mark.parametrize(("file", "name", "outcome", "told"), OUTCOMES, ids=lambda each: str(each)[:40])
def test_outcomes(file: str, name: str, outcome: str, told: list[tuple[str, str, str]]) -> None:
    objects = objects_of(*(FOLDER / file).parent.glob("*.yaml"))  # those of a directory belong together
    known = {(obj["kind"], name_of(obj)): obj for obj in objects}

    def find(resource: Resource, key: Key) -> Object | None:
        return known.get((resource.kind, key.name))

    found = dialect_of("k8s.io/ingress-nginx")([known["Ingress", name]], find)
    rules = list(found.rules())
    if outcome == NOT_TAKEN:
        assert not rules
    else:
        assert rules
        assert all((rule.action == Answer(503)) is (outcome == DENIED) for rule in rules)
    assert len(found.problems) == len(told)
    for problem, (reason, annotation, why) in zip(found.problems, told, strict=True):
        assert problem.reason == reason
        assert f"annotation nginx.ingress.kubernetes.io/{annotation}" in problem.message
        assert why in problem.message
