"""The Ryu (os-ken) application: a thin shim between os-ken's datapaths and the synchroniser.

os-ken does the OpenFlow handshake, echo, and the threads of each connection. Its own listener, which would be in the
namespace of this process, is not opened: connections come from ``controller.listener``.
"""

from __future__ import annotations

import logging
import socket
import struct
from typing import Any

from os_ken import cfg
from os_ken.base import app_manager
from os_ken.controller import controller as osken_controller
from os_ken.controller import ofp_event, ofp_handler
from os_ken.controller.handler import CONFIG_DISPATCHER, DEAD_DISPATCHER, MAIN_DISPATCHER, set_ev_cls
from os_ken.lib import hub
from os_ken.ofproto import ofproto_parser, ofproto_v1_5, ofproto_v1_5_parser

from controller.sync import Synchronizer

__all__ = ["KmnController", "OskenChannel", "serve", "start"]

LOG = logging.getLogger(__name__)


class _NoListener:
    """Stands in for os-ken's OpenFlowController, which listens in this process's own namespace."""

    def __call__(self) -> None:
        pass


ofp_handler.OpenFlowController = _NoListener


@ofproto_parser.register_msg_parser(ofproto_v1_5.OFP_VERSION)  # type: ignore[untyped-decorator]
def _parse(datapath: Any, version: int, kind: int, length: int, xid: int, buffer: Any) -> Any:
    """os-ken's parser, except that flows and groups read back stay bytes: objects would cost seconds a bridge."""
    if kind == ofproto_v1_5.OFPT_MULTIPART_REPLY:
        (what,) = struct.unpack_from("!H", buffer, 8)
        cls = {
            ofproto_v1_5.OFPMP_FLOW_DESC: ofproto_v1_5_parser.OFPFlowDescStatsReply,
            ofproto_v1_5.OFPMP_AGGREGATE_STATS: ofproto_v1_5_parser.OFPAggregateStatsReply,
            ofproto_v1_5.OFPMP_GROUP_DESC: ofproto_v1_5_parser.OFPGroupDescStatsReply,
        }.get(what)
        if cls is not None:
            message = cls(datapath)
            message.set_headers(version, kind, length, xid)
            message.set_buf(bytes(buffer))
            return message
    return ofproto_v1_5_parser.msg_parser(datapath, version, kind, length, xid, buffer)


def start(synchronizer: Synchronizer) -> None:
    """Start os-ken with this application. Its threads are no daemons: the process must be ended by ``os._exit``."""
    manager = app_manager.AppManager.get_instance()
    manager.load_apps([__name__])
    # After loading, as modules register their options then. A bundle may take a switch longer than the default.
    cfg.CONF([], project="os_ken")
    cfg.CONF.set_override("socket_timeout", 60.0)
    contexts = manager.create_contexts()
    manager.instantiate_apps(**contexts, synchronizer=synchronizer)


def serve(connection: socket.socket, bridge: str) -> None:
    """Hand an accepted connection to os-ken. The address, which os-ken only logs, names the bridge."""
    hub.spawn(osken_controller.datapath_connection_factory, connection, (bridge, 0))


class OskenChannel:
    """A :class:`controller.link.Channel` on an os-ken datapath."""

    def __init__(self, datapath: Any) -> None:
        self._datapath = datapath
        self.bridge: str = datapath.address[0]
        self.datapath_id: int = datapath.id

    def send(self, messages: bytes) -> None:
        self._datapath.send(messages)

    def close(self) -> None:
        self._datapath.close()
        try:
            self._datapath.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # gone already


class KmnController(app_manager.OSKenApp):  # type: ignore[misc]
    """Passes on which bridges are there and what they say."""

    OFP_VERSIONS = (ofproto_v1_5.OFP_VERSION,)

    def __init__(self, *args: Any, synchronizer: Synchronizer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._synchronizer = synchronizer
        self._channels: dict[Any, OskenChannel] = {}

    @set_ev_cls(ofp_event.EventOFPStateChange, [MAIN_DISPATCHER, DEAD_DISPATCHER])  # type: ignore[untyped-decorator]
    def _state_changed(self, event: Any) -> None:
        datapath = event.datapath
        if event.state == MAIN_DISPATCHER:
            channel = self._channels[datapath] = OskenChannel(datapath)
            self._synchronizer.up(channel)
        elif datapath in self._channels:
            self._synchronizer.down(self._channels.pop(datapath))

    @set_ev_cls(
        [
            ofp_event.EventOFPFlowDescStatsReply,
            ofp_event.EventOFPGroupDescStatsReply,
            ofp_event.EventOFPAggregateStatsReply,
            ofp_event.EventOFPBundleCtrlMsg,
            ofp_event.EventOFPErrorMsg,
        ],
        [CONFIG_DISPATCHER, MAIN_DISPATCHER],
    )  # type: ignore[untyped-decorator]
    def _message(self, event: Any) -> None:
        channel = self._channels.get(event.msg.datapath)
        if channel is not None:
            self._synchronizer.receive(channel, bytes(event.msg.buf))
