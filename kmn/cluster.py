"""The public Python API: a cluster as an object, for scripted experiments and tests. See ``docs/python.md``."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from kmn import front, ready
from kmn.apply import Change, apply, delete
from kmn.cluster_spec import ClusterSpec
from kmn.errors import UserError
from kmn.front import ClusterProcess
from kmn.k8s.errors import ApiError
from kmn.k8s.objects import Object
from kmn.machine import Machine, find, find_host, find_node, find_pod
from kmn.naming import Paths
from kmn.ready import Problem, Progress

if TYPE_CHECKING:
    from kmn.k8s.rest import RestClient
    from kmn.mininet.net import ClusterNet

__all__ = ["Cluster", "Manifest", "objects_of", "spec_of"]

# A file or folder, YAML or JSON text, or an object as a dictionary.
Manifest: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]

_DEFAULT_NAME = "kmn"
_START_TIMEOUT = 120.0
_UNAVAILABLE = 503
_END_SHOWS = 1.0  # seconds until the end of a process can be seen, after its sockets have closed


def spec_of(
    source: str | os.PathLike[str] | Mapping[str, Any] | ClusterSpec | None, name: str | None = None
) -> ClusterSpec:
    """The specification that a cluster file, a dictionary, or nothing (the default cluster) stands for."""
    if name is not None:
        _check_name(name)
    if source is None:
        return ClusterSpec.default(name or _DEFAULT_NAME)
    if isinstance(source, ClusterSpec):
        spec = source
    elif isinstance(source, Mapping):
        spec = ClusterSpec.parse(dict(source), source="Cluster")
    else:
        spec = ClusterSpec.load(os.fspath(source))
    return spec if name is None else dataclasses.replace(spec, name=name)


def _check_name(name: str) -> None:
    from kmn.cluster_file import ClusterFileError

    try:
        ClusterSpec.default(name)
    except ClusterFileError as error:
        raise UserError(f"cluster name: {error.errors[0].message}") from None


def _print_warning(text: str) -> None:
    """As kubectl prints the server's warnings."""
    print(f"Warning: {text}", file=sys.stderr)


def objects_of(manifests: Iterable[Manifest], namespace: str | None = None) -> list[Object]:
    """The objects of files, folders, texts and dictionaries, in order; ``namespace`` is for those that name none."""
    from kmn.k8s.manifests import load

    objects: list[Object] = []
    for manifest in manifests:
        if isinstance(manifest, Mapping):
            objects.append(dict(manifest))
        elif isinstance(manifest, str) and "\n" in manifest:
            objects += load(["-"], io.StringIO(manifest), namespace=namespace or "default")
        else:
            objects += load([os.fspath(manifest)], namespace=namespace or "default")
    return objects


class Cluster:
    """A cluster, from ``with`` to the end of the block::

        with Cluster("topologies/three-zones.yaml", manifests=["topologies/shop.yaml"]) as c:
            c.wait_ready()
            print(c.pod("load").cmd("curl -s frontend"))

    ``source`` is a cluster file, its content as a dictionary, or None for the default cluster of two nodes. ``name``
    overrides the file's name, so that several can run side by side. When the block is left, however, everything that
    belongs to the cluster is gone from the machine.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Any] | ClusterSpec | None = None,
        *,
        name: str | None = None,
        manifests: Iterable[Manifest] = (),
        start_timeout: float = _START_TIMEOUT,
    ) -> None:
        self.spec: ClusterSpec | None = spec_of(source, name)
        self.name = self.spec.name
        self._source = os.path.abspath(source) if isinstance(source, str | os.PathLike) else ""
        self._manifests = [*self.spec.manifests, *manifests]
        self._start_timeout = start_timeout
        self._process: ClusterProcess | None = None
        self._client: RestClient | None = None
        self._net: ClusterNet | None = None

    @classmethod
    def attach(cls, name: str | None = None) -> Cluster:
        """A cluster that is running already (``kmn up`` in another terminal); without a name, the only one.

        It stays when the object goes. Raises NotRunning.
        """
        state = front.select_cluster(name)
        cluster = cls.__new__(cls)
        cluster.spec, cluster.name, cluster._source = None, state.name, state.file
        cluster._manifests, cluster._start_timeout = [], _START_TIMEOUT
        cluster._process = cluster._client = cluster._net = None
        return cluster

    def __enter__(self) -> Cluster:
        if self.spec is not None and self._process is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *, detach: bool = False, on_event: Callable[[front.Event], None] | None = None) -> Cluster:
        """Bring the nodes up and apply the manifests; ``with`` does this. Pods follow: see :meth:`wait_ready`.

        Manifests are read before anything is started. With ``detach`` the cluster outlives this process
        (``kmn down`` ends it). Raises UserError, and leaves nothing behind then.
        """
        if self.spec is None or self._process is not None:
            raise UserError(f"cluster {self.name}: is running already")
        objects = objects_of(self._manifests)
        deadline = time.monotonic() + self._start_timeout
        with front.deferred_interrupts():
            self._process = front.start(self.spec, source=self._source, detach=detach)
        try:
            for event in self._process.events(deadline - time.monotonic()):
                if on_event is not None:
                    on_event(event)
                if event["event"] == "api":
                    with self._alive():
                        for change in apply(self.client, objects):
                            if on_event is not None:
                                on_event({"event": "applied", "change": change})
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the cluster and remove everything that it owns, whoever started it."""
        self._close_connections()
        if self._process is not None:
            process, self._process = self._process, None
            process.stop()
        else:
            front.stop(self.name)

    def close(self) -> None:
        """What the end of ``with`` does: stop a cluster that this object started, let go of an attached one."""
        if self._process is not None:
            self.stop()
        else:
            self._close_connections()

    def detach(self) -> None:
        """Let go of a cluster that was started with ``detach``: it stays."""
        self._close_connections()
        if self._process is not None:
            self._process.release()
            self._process = None

    @property
    def paths(self) -> Paths:
        """Where the files of the cluster are: kubeconfig, logs, Open vSwitch sockets."""
        return Paths(self.name)

    @property
    def kubeconfig(self) -> str:
        """Path of the kubeconfig, for kubectl and other clients."""
        return str(self.paths.kubeconfig)

    @property
    def client(self) -> RestClient:
        """The API: ``get``, ``list``, ``create``, ``update``, ``patch``, ``delete``, ``watch``."""
        if self._client is None:
            from kmn.k8s.rest import RestClient

            self._client = RestClient.from_kubeconfig(self.paths.kubeconfig, on_warning=_print_warning)
        return self._client

    @property
    def net(self) -> ClusterNet:
        """The cluster as a Mininet network: ``c.net.get("web-1").cmd("ip a")``, ``c.net.pingAll()``."""
        from kmn.mininet import build

        if self._net is None:
            self._net = build(self.client, self.name)
        else:
            self._net.refresh()
        return self._net

    def apply(self, *manifests: Manifest, namespace: str | None = None) -> list[Change]:
        """``kubectl apply -f``: each one is a path, YAML or JSON text of several lines, or a dictionary."""
        return list(apply(self.client, objects_of(manifests, namespace), namespace))

    def delete(self, *manifests: Manifest, namespace: str | None = None, ignore_missing: bool = False) -> list[Change]:
        """``kubectl delete -f``: the objects of ``manifests``, the last one first."""
        return list(delete(self.client, objects_of(manifests, namespace), namespace, ignore_missing=ignore_missing))

    def wait_ready(
        self, timeout: float = 60.0, on_progress: Callable[[Iterable[Progress]], None] | None = None
    ) -> list[Problem]:
        """Return when pods are ready, Services know them, Ingresses have addresses and the data plane is programmed.

        What is returned is what was not waited for, as no waiting brings it: Ingresses that no controller takes.
        Raises :class:`kmn.ready.NotReady`, which says what is missing and why.
        """
        with self._alive():
            return ready.remarks(ready.wait_ready(self.client, timeout, on_progress))

    def pod(self, name: str, namespace: str = "default") -> Machine:
        """A pod, by ``NAME`` or ``NAMESPACE/NAME``. Raises UserError with near misses."""
        return find_pod(self.client, self.name, name, namespace)

    def node(self, name: str) -> Machine:
        """A node."""
        return find_node(self.client, self.name, name)

    def host(self, name: str) -> Machine:
        """A host of the emulated internet."""
        return find_host(self.client, self.name, name)

    def find(self, target: str, namespace: str = "default") -> Machine:
        """What ``kmn exec`` would enter: ``POD``, ``deploy/web``, ``node/n1``, ``host/e1``."""
        return find(self.client, self.name, target, namespace)

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> str:
        """Run the machine's ``kubectl`` on this cluster; its standard output. Raises UserError when it fails."""
        try:
            done = subprocess.run(
                ["kubectl", *args], input=input, capture_output=True, text=True, check=False,
                env={**os.environ, "KUBECONFIG": self.kubeconfig},
            )  # fmt: skip
        except FileNotFoundError:
            raise UserError("kubectl: not on PATH", "Cluster.apply, .delete and .client do without it") from None
        if check and done.returncode:
            raise UserError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def __repr__(self) -> str:
        return f"Cluster({self.name!r})"

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Says that the cluster's process has ended, where all that shows is an API that does not answer."""
        try:
            yield
        except ApiError as error:
            if error.code == _UNAVAILABLE and self._process is not None and self._process.ends(_END_SHOWS):
                raise self._process.ended() from error
            raise

    def _close_connections(self) -> None:
        if self._net is not None:
            self._net.close()
            self._net = None
        if self._client is not None:
            self._client.close()
            self._client = None
