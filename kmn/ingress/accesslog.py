"""One line of an access log: a request, as a proxy tells it, named and explained. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from kmn.ingress.model import Owner

__all__ = ["Entry", "backend_of", "entry_of", "rule_of", "split_address"]

# Envoy's response flags (its documentation of access logs).
_FLAGS = {
    "DC": "the client went away",
    "DF": "the backend's name could not be resolved",
    "DI": "delayed",
    "DPE": "the client does not speak HTTP",
    "DT": "timeout",
    "FI": "aborted by a rule",
    "IH": "a header that is not allowed",
    "LH": "no healthy endpoint",
    "LR": "reset by the proxy",
    "NC": "no such backend",
    "NFCF": "not configured yet",
    "NR": "no rule",
    "OM": "the proxy is overloaded",
    "RL": "rate limit",
    "RLSE": "rate limit not known",
    "SI": "idle timeout",
    "UAEX": "not authorized",
    "UC": "the backend closed the connection",
    "UF": "no connection to the backend",
    "UH": "no ready endpoint",
    "UMSDR": "no answer in time",
    "UO": "too many requests at once",
    "UPE": "the backend does not speak HTTP",
    "UR": "the backend reset the request",
    "URX": "tried again in vain",
    "UT": "timeout",
}
# What comes with UF, in the details.
_FAILURES = {"refused": "connection refused", "timeout": "no connection in time", "unreachable": "unreachable",
             "no_route": "unreachable", "tls_error": "no TLS with the backend"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A request, or (``method`` None) a connection that was passed on. Durations are in milliseconds."""

    time: str  # RFC 3339, when it came
    proxy: str  # the controller's pod
    client: str
    client_port: int | None
    port: int
    tls: str | None
    method: str | None
    host: str | None
    path: str | None
    protocol: str | None
    status: int | None  # None: there was no answer
    received: int
    sent: int
    owner: Owner | None
    rule: str  # the owner's field; without an owner why there is none
    backend: str | None
    pod: str | None  # "pod NS/NAME", or whatever else has the address
    address: str | None
    attempts: int
    total: float | None
    first: float | None
    connect: float | None  # None where the connection was there before
    flags: str
    details: str

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def problem(self) -> str | None:
        """Envoy's response flags in words."""
        flags = [flag for flag in self.flags.split(",") if flag not in ("", "-")]
        if not flags:
            return None
        flags.sort(key=lambda flag: flag == "URX")  # what went wrong goes before what was done about it
        reason = next((word for part, word in _FAILURES.items() if part in self.details.lower()), None)
        return ", ".join(reason if flag == "UF" and reason else _FLAGS.get(flag, flag) for flag in flags)

    def __str__(self) -> str:
        what = f"{self.method} {self.scheme}://{self.host}{self.path} {self.protocol}"
        if self.method is None:
            what = f"connection to port {self.port}{f' for {self.host}' if self.host else ''}"
        answer = [str(self.status)] if self.status else []
        answer += [self.problem] if self.problem else []
        by = f"{self.owner} {self.rule}" if self.owner else self.rule
        to = f" -> {self.backend}" if self.backend else ""
        end = f", {self.pod or self.address}" if self.address else ""
        return (
            f"{self.time[11:23]} {self.proxy}: {self.client} {what}: {', '.join(answer) or 'done'}, {self.sent} bytes"
            f"{self._timings()}: {by}{to}{end}"
        )

    def _timings(self) -> str:
        if self.total is None:
            return ""
        parts = {"connect": self.connect, "first byte": self.first}
        shown = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if value is not None)
        return f" in {self.total:.1f} ms{f' ({shown})' if shown else ''}"

    def as_json(self) -> dict[str, Any]:
        """For programs; what is not known, or does not apply, is left out."""
        shown: dict[str, Any] = {
            "time": self.time,
            "proxy": self.proxy,
            "client": {"address": self.client, "port": self.client_port},
            "method": self.method,
            "scheme": self.scheme if self.method else None,
            "host": self.host,
            "path": self.path,
            "port": self.port,
            "tls": self.tls,
            "protocol": self.protocol,
            "status": self.status,
            "bytes": {"received": self.received, "sent": self.sent},
            "owner": self.owner._asdict() if self.owner else None,
            "rule": self.rule,
            "backend": self.backend,
            "pod": self.pod.removeprefix("pod ") if self.pod and self.pod.startswith("pod ") else None,
            "endpoint": self.address,
            "attempts": self.attempts or None,
            "milliseconds": _known({"total": self.total, "firstByte": self.first, "connect": self.connect}) or None,
            "problem": self.problem,
            "flags": self.flags if self.problem else None,
            "details": self.details or None,
        }
        return _known(shown)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def entry_of(line: bytes, proxy: str, place: Callable[[str], str | None]) -> Entry:
    """``place`` names what has an address. Raises ValueError for what is no line of an access log."""
    told = orjson.loads(line)
    try:
        client, client_port = split_address(told["client"])
        owner, rule = rule_of(told.get("rule"))
        address = told["address"]
        return Entry(
            told["time"], proxy, client, client_port, told["port"], told["tls"], told.get("method"), told["host"],
            told.get("path"), told.get("protocol"), told.get("status") or None, told["received"], told["sent"], owner,
            rule, backend_of(told["cluster"]), place(split_address(address)[0]) if address else None, address,
            told.get("attempts", 0), *_timings(told), told["flags"] or "-", told["details"] or "",
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no line of an access log: {line[:80]!r}") from error


def rule_of(name: str | None) -> tuple[Owner | None, str]:
    """The owner and field that a rule is named by; no owner for what is no rule."""
    parts = (name or "no rule").split(" ", 2)
    if len(parts) < 3 or "/" not in parts[1]:
        return None, name or "no rule"
    namespace, _, short = parts[1].partition("/")
    return Owner(parts[0], namespace, short), parts[2]


def split_address(text: str) -> tuple[str, int | None]:
    """``10.0.0.1:80``, ``[fd00::1]:80``."""
    found = re.fullmatch(r"\[?([^\]]*?)\]?:(\d+)", text)
    return (found[1], int(found[2])) if found else (text, None)


def backend_of(cluster: str | None) -> str | None:
    """Clusters are named by their upstreams: a backend, and how it is dealt with."""
    return cluster.partition(" ")[0] if cluster else None


def _timings(told: dict[str, Any]) -> tuple[float | None, float | None, float | None]:
    """Total, until the backend's first byte, and for the connection to it if it was made for this request."""
    if "duration" in told:
        return float(told["duration"]), None, None
    connect = told["connect"] if told["connected"] is not None else None
    total, first, connect = (us / 1000 if us is not None else None for us in (told["total"], told["first"], connect))
    return total, first, connect
