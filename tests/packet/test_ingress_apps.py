"""Applications behind an Ingress with TLS, as their users see them: by curl, and in a real browser.

The browser is Debian's Chromium, in the namespace of an outside host. It knows no authority, and takes one key without:
that of the Secret. Whatever else it is shown, it refuses.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority
from clusterlab import eventually, make_namespace, running
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from matplotlib import image
from published import APPS

from kmn import Cluster
from kmn.k8s.objects import Object
from kmn.k8s.resources import INGRESSES

pytestmark = pytest.mark.packet

SHOP = APPS / "online-boutique/release/kubernetes-manifests.yaml"
BROWSING = 90.0  # seconds: a browser's first start on a busy machine takes some

# Pages are served by a real web server, which the test starts in pod site; what they ask for by an emulated container.
SITE = """\
apiVersion: v1
kind: Pod
metadata: {name: site, labels: {app: site}, annotations: {kmn.io/program: none}}
spec: {containers: [{name: site, image: example.com/site:1, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: site}
spec: {selector: {app: site}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, labels: {app: cart}}
spec: {containers: [{name: cart, image: example.com/cart:1, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: site}
spec:
  ingressClassName: nginx
  tls: [{hosts: [site.example], secretName: site-tls}]
  rules:
  - host: site.example
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: site, port: {number: 80}}}}
      - {path: /api, pathType: Prefix, backend: {service: {name: cart, port: {number: 80}}}}
"""
PAGE = """\
<!doctype html>
<title>A shop</title>
<link rel="stylesheet" href="/static/style.css">
<h1>A shop behind an Ingress</h1>
<p>The cart is kept by <b id="pod">nobody</b>, asked over <b id="scheme">nothing</b>.</p>
<script>
  fetch("/api/cart").then(answer => answer.json()).then(told => {
    document.getElementById("pod").textContent = told.pod;
    document.getElementById("scheme").textContent = told.headers["x-forwarded-proto"];
  });
</script>
"""
STYLE = "body { background: rgb(0, 128, 64); color: white; font: 24px sans-serif; padding: 40px }"


def ingress(name: str, namespace: str, host: str, service: str) -> Object:
    """All paths of a host lead to a Service; its certificate is in Secret NAME-tls."""
    backend = {"service": {"name": service, "port": {"number": 80}}}
    rule = {"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    tls = [{"hosts": [host], "secretName": f"{name}-tls"}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ingressClassName": "nginx", "tls": tls, "rules": [rule]},
    }


def address_of(cluster: Cluster, namespace: str, name: str) -> str:
    """The one that an Ingress tells; it has one when the cluster is ready."""
    status = cluster.client.get(INGRESSES, namespace, name)["status"]
    address: str = status["loadBalancer"]["ingress"][0]["ip"]
    return address


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running("iapp") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


# --- Online Boutique --------------------------------------------------------------------------------------------------


def test_online_boutique_over_tls(cluster: Cluster, authority: Authority, tmp_path: Path) -> None:
    """Unmodified, in a namespace of its own, with an Ingress before its frontend."""
    if not SHOP.exists():
        pytest.skip(f"{SHOP} is not here: Online Boutique was not tried behind an Ingress")
    make_namespace(cluster, "boutique")
    cluster.apply(SHOP, namespace="boutique")
    host = "boutique.example"
    cluster.apply(authority.secret("boutique/shop-tls", [host]), ingress("shop", "boutique", host, "frontend"))
    cluster.wait_ready()
    address = address_of(cluster, "boutique", "shop")
    trusted = tmp_path / "authority.pem"
    trusted.write_text(authority.pem)
    outside = cluster.host("e1")

    def curl(url: str, *options: str) -> subprocess.CompletedProcess[str]:
        ways = [option for port in (80, 443) for option in ("--resolve", f"{host}:{port}:{address}")]
        return outside.run(["curl", "-sS", "--max-time", "10", *ways, *options, url])

    checked = ("--cacert", str(trusted))
    eventually(lambda: curl(f"https://{host}/", *checked).returncode == 0, "a page with the shop's own certificate")
    for path in ("/", "/product/OLJCESPC7Z", "/cart?currency=EUR"):
        done = curl(f"https://{host}{path}", *checked)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        headers = {name.lower(): value for name, value in told["headers"].items()}
        assert (told["namespace"], told["path"], told["host"]) == ("boutique", path, host)
        assert told["pod"].startswith("frontend-")
        assert (headers["x-forwarded-proto"], headers["x-forwarded-for"]) == ("https", outside.ip)
    distrusted = curl(f"https://{host}/")
    assert distrusted.returncode == 60, distrusted  # curl's own number: nobody whom it knows has signed that
    redirected = curl(f"http://{host}/cart", *checked, "--location")  # as ingress-nginx does it for hosts with TLS
    assert json.loads(redirected.stdout)["headers"]["x-forwarded-proto"] == "https"


# --- a browser --------------------------------------------------------------------------------------------------------


class Browser:
    """Headless Chromium of the outside host. ``pin``: hash of the key that it takes without knowing its authority."""

    def __init__(self, cluster: Cluster, host: str, address: str, pin: str, home: Path) -> None:
        self._host = cluster.host("e1")
        self._home = home
        self._argv = [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", f"--user-data-dir={home}/profile", "--window-size=800,600",
            f"--host-resolver-rules=MAP {host} {address}", f"--ignore-certificate-errors-spki-list={pin}",
            "--virtual-time-budget=20000",  # what the page does in so much time of its own is waited for
        ]  # fmt: skip

    def dom(self, url: str) -> subprocess.CompletedProcess[str]:
        """The document as it is when scripts have run."""
        return self._run("--dump-dom", url)

    def screenshot(self, url: str) -> Path:
        file = self._home / "screenshot.png"
        done = self._run(f"--screenshot={file}", url)
        assert file.exists(), done.stderr[-2000:]
        return file

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = ["env", f"HOME={self._home}", f"XDG_RUNTIME_DIR={self._home}"]
        return self._host.run([*env, *self._argv, *arguments], timeout=BROWSING)


@pytest.fixture(scope="module")
def site(cluster: Cluster, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A site with a page, a style sheet and something to ask for; the address of its Ingress."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed (apt-get install chromium): no page was loaded in a browser")
    folder = tmp_path_factory.mktemp("site")
    (folder / "static").mkdir()
    (folder / "index.html").write_text(PAGE)
    (folder / "static/style.css").write_text(STYLE)
    cluster.apply(SITE, authority.secret("default/site-tls", ["site.example"]))
    cluster.wait_ready()
    server = cluster.pod("site").popen(["python3", "-m", "http.server", "8080", "--directory", str(folder)])
    try:
        address = address_of(cluster, "default", "site")
        ask = ["curl", "-sfk", "--max-time", "5", "--resolve", f"site.example:443:{address}", "https://site.example/"]
        eventually(lambda: cluster.host("e1").run(ask).stdout == PAGE, "the page")
        yield address
    finally:
        server.kill()
        server.communicate()


def pin_of(certificate: bytes) -> str:
    """What Chromium knows a key by (RFC 7469, section 2.4)."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    told = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(told).digest()).decode()


def test_a_browser_loads_a_page(cluster: Cluster, authority: Authority, site: str, tmp_path: Path) -> None:
    pin = pin_of(authority.current["default/site-tls"])
    browser = Browser(cluster, "site.example", site, pin, tmp_path)
    done = browser.dom("https://site.example/")
    dom = done.stdout
    assert "<title>A shop</title>" in dom, done.stderr[-2000:]
    assert '<b id="pod">cart</b>' in dom  # its script has asked another Service of the same host
    assert '<b id="scheme">https</b>' in dom
    pixels = image.imread(browser.screenshot("https://site.example/"))
    assert pixels.shape[:2] == (600, 800)
    assert [round(255 * float(part)) for part in pixels[5, 5][:3]] == [0, 128, 64]  # the style sheet came, too
    assert (pixels[:, :, :3] == 1).all(axis=2).any(), "nothing white is written on it"


def test_a_browser_refuses_another_key(cluster: Cluster, site: str, tmp_path: Path) -> None:
    other = Authority()
    other.secret("default/other", ["site.example"])
    browser = Browser(cluster, "site.example", site, pin_of(other.current["default/other"]), tmp_path)
    done = browser.dom("https://site.example/")
    assert "ERR_CERT_AUTHORITY_INVALID" in done.stderr
    assert "A shop" not in done.stdout
