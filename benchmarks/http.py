"""Short HTTP requests: nginx in one network namespace, wrk in another."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Load",
    "UnreadableOutput",
    "client_ports",
    "configuration",
    "load",
    "nginx",
    "parse",
    "require",
    "running",
    "serving",
]

_CONNECTIONS = 16  # requests under way at a time
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_READY_TIMEOUT = 5.0
_PATIENCE = 20.0  # seconds that wrk may take for its first connection
_LONGEST = 300  # seconds of a load that nobody stops


class UnreadableOutput(RuntimeError):
    """wrk printed no figures."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk found. A latency is from a request to its answer: connecting is not in it."""

    rate: float  # requests a second
    p50: float  # seconds
    p99: float  # seconds
    errors: int  # connections or requests that failed
    requests: int = 0  # that were answered


def require() -> None:
    """Raises RuntimeError when a program is not installed."""
    missing = [program for program in ("wrk", "nginx") if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)}: not installed (apt-get install wrk nginx-light)")


def load(
    client: str,
    address: str,
    port: int,
    seconds: int,
    *,
    close: bool,
    host: str = "",
    connections: int = _CONNECTIONS,
) -> Load:
    """Ask from namespace ``client`` for ``seconds``; ``close``: a connection for each request.

    Raises UnreadableOutput with wrk's own words when it is refused. When it cannot even begin for want of an answer,
    its rate is zero.
    """
    url = f"http://{address}:{port}/"
    argv = ["ip", "netns", "exec", client, *_wrk(url, seconds, close=close, host=host, connections=connections)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + _PATIENCE)
    except subprocess.TimeoutExpired as error:
        return Load(0.0, error.timeout, error.timeout, 1)
    return parse(done.stdout + done.stderr)


def _wrk(url: str, seconds: int, *, close: bool, host: str, connections: int) -> Sequence[str]:
    headers = [f"Connection: {'close' if close else 'keep-alive'}", *([f"Host: {host}"] if host else [])]
    options = [word for header in headers for word in ("-H", header)]
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *options, url]


@contextmanager
def running(
    client: str, url: str, hosts: dict[str, str], *, close: bool, connections: int
) -> Iterator[Callable[[], Load]]:
    """A load that goes on beside what is measured; what is yielded ends it and tells what it has found.

    Hosts are asked for by their names, as browsers do: with TLS the server is told it. The client gets a file of hosts
    of its own, since wrk knows no other way.
    """
    with tempfile.NamedTemporaryFile("w", prefix="kmn-hosts") as file:
        file.write("".join(f"{address} {name}\n" for name, address in hosts.items()))
        file.flush()
        script = f'mount --bind {file.name} /etc/hosts && exec ip netns exec {client} "$@"'
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
        argv += _wrk(url, _LONGEST, close=close, host="", connections=connections)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:

            def stop() -> Load:
                process.send_signal(signal.SIGINT)
                return parse(process.communicate(timeout=_PATIENCE)[0])

            try:
                yield stop
            finally:
                process.kill()


def parse(output: str) -> Load:
    """The figures that ``wrk --latency`` prints."""
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", output, re.MULTILINE)
    quantiles = dict(re.findall(r"^\s+(\d+)%\s+([\d.]+[a-z]+) *$", output, re.MULTILINE))
    if rate is None or not {"50", "99"} <= quantiles.keys():
        raise UnreadableOutput(f"wrk: {output.strip()[-500:] or 'no output'}")
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    errors = sum(map(int, sockets.groups())) if sockets else 0
    errors += int(refused.group(1)) if refused else 0
    answered = re.search(r"^\s*(\d+) requests in", output, re.MULTILINE)
    requests = int(answered.group(1)) if answered else 0
    return Load(float(rate.group(1)), _seconds(quantiles["50"]), _seconds(quantiles["99"]), errors, requests)


def _seconds(text: str) -> float:
    """``193.00us``, ``1.25ms``, ``1.02s``."""
    number = text.rstrip("umsh")
    return float(number) * _UNITS[text.removeprefix(number)]


def configuration(ports: Iterable[int], folder: Path, location: str = 'return 200 "ok\\n";', more: str = "") -> str:
    """nginx.conf of a server in one process. ``location``: what it does with every request, by default an answer from
    memory; ``more``: what stands beside the server."""
    listen = " ".join(f"listen {port} backlog=4096;" for port in ports)
    return f"""daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  {more}
  server {{ {listen} location / {{ {location} }} }}
}}
"""


def client_ports(netns: str, ports: str = "1024 65000") -> None:
    """The ports that connections from a namespace get."""
    argv = ["ip", "netns", "exec", netns, "sysctl", "-qw", f"net.ipv4.ip_local_port_range={ports}"]
    subprocess.run(argv, check=True)


@contextmanager
def serving(netns: str, ports: Iterable[int], answer: str = "ok") -> Iterator[int]:
    """nginx in a namespace that answers every request from memory; as :func:`nginx`."""
    listen = list(ports)
    with nginx(netns, listen, lambda folder: configuration(listen, folder, f'return 200 "{answer}\\n";')) as pid:
        yield pid


@contextmanager
def nginx(netns: str, ports: Sequence[int], configure: Callable[[Path], str]) -> Iterator[int]:
    """nginx in a namespace, on these ports of all its addresses, configured for a folder of its own; its process.

    Raises RuntimeError with nginx's words when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="kmn-nginx") as name:
        folder = Path(name)
        (folder / "nginx.conf").write_text(configure(folder))
        argv = ["ip", "netns", "exec", netns]
        argv += ["setpriv", "--pdeathsig", "KILL"]  # whatever ends this process ends nginx
        argv += ["nginx", "-e", "stderr", "-p", name, "-c", f"{name}/nginx.conf"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _READY_TIMEOUT
            while not _listening(netns, ports):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nginx in {netns}: {(folder / 'log').read_text()[-1000:] or 'not listening'}")
                time.sleep(0.02)
            yield server.pid  # each of these programs becomes the next one
        finally:
            server.kill()
            server.wait()


def _listening(netns: str, ports: Sequence[int]) -> bool:
    argv = ["ip", "netns", "exec", netns, "ss", "-Hltn"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    return set(ports) <= {int(line.split()[3].rpartition(":")[2]) for line in lines}
