"""Istio's Gateways and VirtualServices, read into the model of ``kmn.ingress.model`` as far as they share it.

``http_routes`` has what the http routes of a VirtualService say, ``destinations`` where requests go, and ``reading``
puts all together for the one ingress gateway that there is: servers of Gateways, and what comes in by them.
``manifests`` has its objects. There are no sidecars: what is for the mesh has no effect, and is told so.
"""
