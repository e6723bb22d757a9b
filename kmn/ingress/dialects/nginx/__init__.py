"""Ingresses as ingress-nginx reads them, annotations and all."""

from kmn.ingress.dialects.nginx.servers import routing_of

__all__ = ["routing_of"]
