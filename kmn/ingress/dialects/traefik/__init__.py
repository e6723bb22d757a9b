"""Ingresses as Traefik's Kubernetes Ingress provider reads them.

``annotations`` reads values, ``middlewares`` has what Middleware objects do with requests, ``services`` what
annotations of Services say, ``rules`` puts routers together.
"""
