"""An Open vSwitch of one's own for a namespace: ``ovsdb-server`` and ``ovs-vswitchd`` with their own files.

Both run in the foreground as children, in the namespace, and share nothing with the machine's Open vSwitch. Functions
that take many switches do each step for all of them before the next, because each step waits for other processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmn.emulator import netns
from kmn.emulator.ovsdb import Operation, Ovsdb, OvsdbError, map_of, named, set_of
from kmn.k8s.dataplane import BRIDGE, CONTROLLER_PORT, CT_ZONES
from kmn.naming import CLUSTER_VARIABLE

__all__ = ["SCHEMA", "BridgePlan", "Port", "Switch", "kill_all", "make_database", "start_all"]

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")

OTHER_CONFIG = {
    # Set before ovs-vswitchd starts: without it TCP through the userspace datapath needs checksums in software.
    "userspace-tso-enable": "true",
    # Statistics of all ports are read under the kernel's RTNL lock, which stalls packets when many switches do it.
    "stats-update-interval": "3600000",
    "n-handler-threads": "1",
    "n-revalidator-threads": "1",
}
# A closed connection is forgotten soon. The userspace datapath takes the ports of a translated one for taken as long as
# it remembers it, also for the same client: by default 30 s, and a client has 28,000 ports, so that it could make 900
# connections a second to an endpoint behind a Service. ("close": the FIN of both ends was seen, or a RST.)
CT_TIMEOUTS = {"tcp_close": 2, "tcp_time_wait": 2}  # seconds
# A log line to a file costs an open file a process; messages go to no console and no syslog.
_LOGGING = ("-vconsole:off", "-vsyslog:off", "-vfile:info")
_SETTLE = 15.0  # seconds that ovs-vswitchd may take to act on a transaction
_LOOK = 1.0  # seconds of waiting after which it is looked whether that still makes sense


def make_database(path: Path) -> None:
    """An empty database from the schema; copy it for each switch."""
    path.unlink(missing_ok=True)
    subprocess.run(["ovsdb-tool", "create", path, SCHEMA], check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class Port:
    """A device to put on a bridge, and the OpenFlow port number that it gets."""

    device: str
    ofport: int
    external_ids: Mapping[str, str] = field(default_factory=dict)


class Switch:
    """The Open vSwitch of one namespace, with one bridge."""

    def __init__(self, cluster: str, name: str, netns_name: str, directory: Path, log: Path, database: Path) -> None:
        self.name = name
        self._cluster = cluster
        self._netns = netns_name
        self._directory = directory
        self._log = log
        self._database = database
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, str] = {}  # device: uuid of its Port row
        self._unsure = False  # a transaction was sent whose result is not known
        self._config = 0
        self.ovsdb = Ovsdb(directory)

    # --- processes ----------------------------------------------------------------------------------------------------

    def start_database(self) -> None:
        """Start ``ovsdb-server``. The calling thread must be in the switch's namespace."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = self._directory / "conf.db"
        if not database.exists():
            shutil.copyfile(self._database, database)
        self._clear("ovsdb-server")
        (self._directory / "db.sock").unlink(missing_ok=True)
        self._spawn("ovsdb-server", str(database), f"--remote=punix:{self._directory}/db.sock")

    def start_switch(self) -> None:
        """Start ``ovs-vswitchd``. The calling thread must be in the switch's namespace; the database must listen."""
        self._clear("ovs-vswitchd")
        self._spawn("ovs-vswitchd", f"unix:{self._directory}/db.sock")

    def _spawn(self, program: str, *arguments: str) -> None:
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "OVS_RUNDIR": str(self._directory),
            "OVS_LOGDIR": str(self._log.parent),
            "MALLOC_ARENA_MAX": "1",
            CLUSTER_VARIABLE: self._cluster,
        }
        command = [program, *arguments, "--no-chdir", f"--pidfile={self._directory}/{program}.pid"]
        command += [f"--log-file={self._log}", *_LOGGING]
        # A session of its own: Ctrl-C at the terminal is for the front, which takes the cluster down in order.
        self._processes[program] = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def _clear(self, program: str) -> None:
        """Files that a killed process left."""
        for leftover in self._directory.glob(f"{program}.*"):
            leftover.unlink(missing_ok=True)

    def dead(self) -> list[str]:
        """Programs that have ended."""
        return [program for program, process in self._processes.items() if process.poll() is not None]

    def processes(self) -> dict[str, int]:
        """Process ids by program."""
        return {program: process.pid for program, process in self._processes.items()}

    def close(self) -> None:
        """Take notice of the ends of the processes, which must have been killed."""
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        self.ovsdb.close()

    def signal(self, number: int) -> None:
        """Send a signal to those processes that have not ended."""
        for process in self._processes.values():
            process.send_signal(number)

    def revive(self) -> list[str]:
        """Start what has ended; its name, or names. The bridge and its ports come back from the database."""
        dead = self.dead()
        with netns.entered(self._netns):
            if "ovsdb-server" in dead:
                self.ovsdb.close()
                self.start_database()
                self.ovsdb.connect()
            if "ovs-vswitchd" in dead:
                self.start_switch()
        if dead:
            self.settle()
        return dead

    # --- configuration ------------------------------------------------------------------------------------------------

    def send_bridge(self, datapath_type: str, datapath_id: str, mac: str, ports: Sequence[Port]) -> None:
        """First transaction: the bridge with its first ports. :meth:`receive` completes it."""
        bridge = {
            "name": BRIDGE,
            "datapath_type": datapath_type,
            "fail_mode": "secure",
            "protocols": set_of(["OpenFlow10", "OpenFlow13", "OpenFlow15"]),
            "mcast_snooping_enable": False,
            "other_config": map_of(
                {"datapath-id": datapath_id, "hwaddr": mac, "disable-in-band": "true", "mac-table-size": "10"}
            ),
            "ports": set_of([named("port_local"), *(named(f"port_{n}") for n in range(len(ports)))]),
        }
        operations: list[Operation] = [
            _insert("Interface", "if_local", {"name": BRIDGE, "type": "internal"}),
            _insert("Port", "port_local", {"name": BRIDGE, "interfaces": named("if_local")}),
            *_port_rows(ports),
            _insert("Bridge", "bridge", bridge),
        ]
        switch = {"bridges": named("bridge"), "other_config": map_of(OTHER_CONFIG), "next_cfg": 1}
        if datapath_type == "netdev":
            operations += _timeout_rows()
            switch["datapaths"] = ["map", [["netdev", named("datapath")]]]
        operations.append({"op": "insert", "table": "Open_vSwitch", "row": switch})
        self._config = 1
        self.ovsdb.send(operations)

    def send_ports(self, add: Sequence[Port] = (), remove: Iterable[str] = ()) -> None:
        """Add ports and remove those of devices, in one transaction. What is so already is left as it is."""
        if self._unsure:
            self._read_ports()
        add = [port for port in add if port.device not in self._ports]
        gone = [["uuid", self._ports.pop(device)] for device in remove if device in self._ports]
        operations: list[Operation] = _port_rows(add)
        mutations: list[Any] = []
        if add:
            mutations.append(["ports", "insert", set_of([named(f"port_{n}") for n in range(len(add))])])
        if gone:
            mutations.append(["ports", "delete", set_of(gone)])
        if mutations:
            operations.append({"op": "mutate", "table": "Bridge", "where": _THE_BRIDGE, "mutations": mutations})
        self._unsure = True
        self.ovsdb.send(operations + _ASK)

    def _read_ports(self) -> None:
        """Learn from the database which ports there are: the result of a transaction was lost."""
        select = {"op": "select", "table": "Port", "where": [], "columns": ["_uuid", "name"]}
        rows = self.ovsdb.transact([select])[0]["rows"]
        self._ports = {row["name"]: row["_uuid"][1] for row in rows if row["name"] != BRIDGE}
        self._unsure = False

    def receive(self, sent: Sequence[Port] = ()) -> None:
        """Read the result of ``send_bridge`` or ``send_ports``, to which the same ports were given."""
        result = self.ovsdb.receive()
        sent = [port for port in sent if port.device not in self._ports]
        inserted = [entry["uuid"][1] for entry in result if "uuid" in entry]
        # Rows come in pairs, Interface and Port; those of the bridge's own port come first in the first transaction.
        skip = 0 if "rows" in result[-1] else 2
        for number, port in enumerate(sent):
            self._ports[port.device] = inserted[skip + 2 * number + 1]
        if skip == 0:
            self._config = result[-1]["rows"][0]["next_cfg"]
        self._unsure = False

    def send_wait(self) -> None:
        """Ask for the state of ports once ``ovs-vswitchd`` has acted; :meth:`receive_wait` gives it."""
        until = {
            "op": "wait", "table": "Open_vSwitch", "where": [], "columns": ["cur_cfg"], "until": "==",
            "rows": [{"cur_cfg": self._config}], "timeout": int(_LOOK * 1000),
        }  # fmt: skip
        self.ovsdb.send([until, _INTERFACES])

    def receive_wait(self) -> dict[str, str]:
        """What is wrong with which device's port; empty when all have their OpenFlow ports."""
        deadline = time.monotonic() + _SETTLE
        while True:
            try:
                return self._problems(self.ovsdb.receive()[1]["rows"])
            except OvsdbError:
                dead = self.dead()
                if dead:
                    raise OvsdbError(f"{' and '.join(dead)} of {self.name} ended") from None
            # Somebody else's transaction (an ovs-vsctl) may have taken it past the number that was waited for.
            current, interfaces = self.ovsdb.transact([_CURRENT, _INTERFACES])
            if current["rows"][0]["cur_cfg"] >= self._config:
                return self._problems(interfaces["rows"])
            if time.monotonic() > deadline:
                raise OvsdbError(f"ovs-vswitchd of {self.name} does not act on its database")
            self.send_wait()

    def _problems(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        problems: dict[str, str] = {}
        for row in rows:
            wanted, got = row["ofport_request"], row["ofport"]
            if row["error"] != _NONE:
                problems[row["name"]] = f"{BRIDGE} of {self.name}: {row['error']}"
            elif wanted not in (_NONE, got):
                problems[row["name"]] = f"{BRIDGE} of {self.name}: OpenFlow port {got} instead of {wanted}"
        return problems

    def settle(self) -> dict[str, str]:
        """Wait until ``ovs-vswitchd`` has acted on all that the database says; problems by device."""
        self.send_ports()
        self.receive()
        self.send_wait()
        return self.receive_wait()

    def set_controller(self) -> None:
        """Let the bridge connect to the controller, which listens in the namespace. Idempotent."""
        row = {
            "target": f"tcp:127.0.0.1:{CONTROLLER_PORT}",
            "connection_mode": "out-of-band",
            "max_backoff": 1000,
            "inactivity_probe": 0,  # the peer is on this machine: a dead one closes its connection
        }
        found = self.ovsdb.transact([{"op": "select", "table": "Controller", "where": [], "columns": ["target"]}])
        if any(entry["target"] == row["target"] for entry in found[0]["rows"]):
            return
        update = {"op": "update", "table": "Bridge", "where": _THE_BRIDGE, "row": {"controller": named("controller")}}
        self.ovsdb.transact([_insert("Controller", "controller", row), update])


_THE_BRIDGE = [["name", "==", BRIDGE]]
_NONE = ["set", []]  # an empty optional column
_CURRENT: Operation = {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["cur_cfg"]}
_INTERFACES: Operation = {
    "op": "select",
    "table": "Interface",
    "where": [],
    "columns": ["name", "ofport", "ofport_request", "error"],
}
_ASK: list[Operation] = [
    {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]},
    {"op": "select", "table": "Open_vSwitch", "where": [], "columns": ["next_cfg"]},
]


def _insert(table: str, name: str, row: dict[str, Any]) -> Operation:
    return {"op": "insert", "table": table, "uuid-name": name, "row": row}


def _timeout_rows() -> list[Operation]:
    """The row ``datapath``, with timeouts for connections of all zones in use."""
    timeouts = ["map", [[name, seconds] for name, seconds in CT_TIMEOUTS.items()]]
    zones = ["map", [[zone, named(f"zone_{zone}")] for zone in CT_ZONES]]
    return [
        _insert("CT_Timeout_Policy", "timeouts", {"timeouts": timeouts}),
        *(_insert("CT_Zone", f"zone_{zone}", {"timeout_policy": named("timeouts")}) for zone in CT_ZONES),
        _insert("Datapath", "datapath", {"ct_zones": zones}),
    ]


def _port_rows(ports: Sequence[Port]) -> list[Operation]:
    operations: list[Operation] = []
    for number, port in enumerate(ports):
        interface = {"name": port.device, "ofport_request": port.ofport, "external_ids": map_of(port.external_ids)}
        operations.append(_insert("Interface", f"if_{number}", interface))
        operations.append(_insert("Port", f"port_{number}", {"name": port.device, "interfaces": named(f"if_{number}")}))
    return operations


@dataclass(frozen=True, slots=True)
class BridgePlan:
    """A switch to start, and the bridge that it gets."""

    switch: Switch
    netns: str
    datapath_type: str
    datapath_id: str
    mac: str
    ports: tuple[Port, ...]


def start_all(plans: Sequence[BridgePlan]) -> None:
    """Start switches with their bridges; returns when all ports are in. Raises OvsdbError on the first that fails."""
    for plan in plans:
        with netns.entered(plan.netns):
            plan.switch.start_database()
    for plan in plans:
        # ovs-vswitchd reads its whole configuration once, when that is there before it starts.
        plan.switch.ovsdb.connect()
        plan.switch.send_bridge(plan.datapath_type, plan.datapath_id, plan.mac, plan.ports)
    for plan in plans:
        plan.switch.receive(plan.ports)
        with netns.entered(plan.netns):
            plan.switch.start_switch()
        plan.switch.send_wait()
    for plan in plans:
        problems = plan.switch.receive_wait()
        if problems:
            raise OvsdbError("; ".join(problems.values()))


def kill_all(switches: Iterable[Switch]) -> None:
    """End switches at once: nothing that they could save is wanted any more."""
    switches = list(switches)
    for switch in switches:
        switch.signal(signal.SIGKILL)
    for switch in switches:
        switch.close()
