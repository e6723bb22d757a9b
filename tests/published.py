"""Published manifests: where they are, and what is known about the few that cannot be taken as they are."""

from __future__ import annotations

import re
from pathlib import Path

TOP = Path(__file__).parents[1]
SHARED = TOP.parent / "shared"  # beside the repository
APPS = SHARED / "apps"
TOPOLOGIES = TOP / "topologies"

# Files that hold no object that Kubernetes itself serves.
NOT_MANIFESTS = {
    "custom-default-backend.helm.values.yaml": "apiVersion and kind missing",
    "kustomization.yaml": "kustomizations are not built",
    "rule.yaml": 'no matches for kind "K8sBlockIngressPathType"',  # a custom resource
    "template.yaml": 'no matches for kind "ConstraintTemplate"',
}
# Files with an object that the API server refuses: one on purpose, the others hold places for the reader to fill in.
REFUSED = {
    "vouch-proxy.yaml": "spec.template.spec.containers[0].env[0].value: must be a string, is true",
    "oauth2-proxy.yaml": "spec.rules[0].host",  # __INGRESS_HOST__
    "ssl-dh-param.yaml": "data[dhparam.pem]: must be base64",
    "ingress-with-tls.yaml": "spec.rules[0].host",  # registry.<your domain>
    "ingress-without-tls.yaml": "spec.rules[0].host",
}


def followed_orders() -> set[str]:
    """The annotations of ingress-nginx that docs/ingress.md says are followed, or are without effect anyway."""
    text = (TOP / "docs" / "ingress.md").read_text()
    return set(re.findall(r"`([a-z0-9-]+)`", text.partition("| followed |")[2].partition("| with the value")[0]))


def files() -> list[Path]:
    """All of them, sorted; none where the folder is missing."""
    return sorted(path for path in APPS.rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
