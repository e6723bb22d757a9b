"""From the probes of a manifest to what the runtime runs, and what of a manifest is not emulated. Pure functions."""

from __future__ import annotations

from typing import Any

from kmn.emulator.containerports import declared_ports, named_port
from kmn.emulator.runtime.protocol import Check, Probe, ProbeKind
from kmn.k8s.objects import Object

__all__ = ["PROBE_KINDS", "check_of", "not_emulated", "probe_of", "sctp_ports", "seconds_of"]

PROBE_KINDS: tuple[ProbeKind, ...] = ("startup", "readiness", "liveness")


def check_of(container: Object, probe: Object, address: str) -> Check | None:
    """What an attempt does; None for what is not emulated (exec, HTTPS) and taken as passed.

    A port name that the container does not have gives port 0: every attempt fails, as in Kubernetes.
    """
    if http := probe.get("httpGet"):
        if http.get("scheme", "HTTP").upper() == "HTTPS":
            return None
        headers = tuple((header["name"], header["value"]) for header in http.get("httpHeaders") or ())
        path = http.get("path") or "/"
        return Check(
            "http",
            _host(http.get("host") or address),
            named_port(container, http["port"]) or 0,
            path if path.startswith("/") else "/" + path,
            headers,
        )
    if tcp := probe.get("tcpSocket"):
        return Check("tcp", _host(tcp.get("host") or address), named_port(container, tcp["port"]) or 0)
    if grpc := probe.get("grpc"):
        return Check("grpc", address, grpc["port"], service=grpc.get("service") or "")
    return None


def _host(name: str) -> str:
    return "127.0.0.1" if name == "localhost" else name


def probe_of(
    container: Object,
    kind: ProbeKind,
    *,
    run: str,
    address: str,
    netns: str,
    running_for: float,
    initial_delay: float | None,
) -> Probe | None:
    """The probe of one kind of a run of a container, None if it needs none.

    ``running_for`` is how long the container runs already: delays count from its start. A liveness probe that is not
    emulated is kept, as one that always passes, for ``kmn.io/alive`` to act on.
    """
    probe: dict[str, Any] | None = container.get(f"{kind}Probe")
    if not probe:
        return None
    check = check_of(container, probe, address)
    if check is None:
        if kind != "liveness":
            return None
        check = Check("none", address, 0)
    delay = initial_delay if initial_delay is not None else probe.get("initialDelaySeconds") or 0
    return Probe(
        id=f"{run}/{kind}",
        container=run,
        kind=kind,
        netns=netns,
        check=check,
        delay=max(0.0, delay - running_for),
        period=probe.get("periodSeconds") or 10,
        timeout=probe.get("timeoutSeconds") or 1,
        success_threshold=probe.get("successThreshold") or 1,
        failure_threshold=probe.get("failureThreshold") or 3,
    )


def not_emulated(pod: Object) -> list[str]:
    """Paths of fields of a pod that ask for something that is taken as passed instead of done."""
    found = []
    for field in ("initContainers", "containers"):
        for number, container in enumerate(pod["spec"].get(field) or ()):
            at = f"spec.{field}[{number}]"
            for kind in PROBE_KINDS:
                probe = container.get(f"{kind}Probe") or {}
                if "exec" in probe:
                    found.append(f"{at}.{kind}Probe.exec")
                elif (probe.get("httpGet") or {}).get("scheme", "HTTP").upper() == "HTTPS":
                    found.append(f"{at}.{kind}Probe.httpGet.scheme: HTTPS")
            for hook, action in (container.get("lifecycle") or {}).items():
                found += [
                    f"{at}.lifecycle.{hook}.{what}" for what in ("exec", "httpGet", "tcpSocket") if what in action
                ]
                if hook == "postStart" and "sleep" in action:
                    found.append(f"{at}.lifecycle.postStart.sleep")
    return found


def sctp_ports(pod: Object) -> list[int]:
    """SCTP ports that the pod declares."""
    return [port for c in pod["spec"]["containers"] for protocol, port in declared_ports(c) if protocol == "SCTP"]


def seconds_of(text: str | None) -> float | None:
    """An annotation's number of seconds; None when it is not there. Raises ValueError for what is none."""
    if text is None:
        return None
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise ValueError(text)
    return seconds
