"""Gateway API: Gateways and the routes that attach to them, read into the model of ``kmn.ingress.model``.

Data flows one way, and everything but ``manifests`` is about one Gateway: ``classes`` (whose it is) → ``listeners``
(which of its listeners are good, with which certificate) → ``attachment`` (which routes come in by which listener, for
which hosts) → ``http_rules`` and ``stream_rules`` (what the routes say) → ``tables`` (hosts and rules of a port, in the
order of precedence). ``reading`` puts these together and has the status of all objects concerned; ``conditions`` gives
status its form. ``world`` is what of the cluster they look at.
"""
