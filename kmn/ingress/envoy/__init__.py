"""Envoy's configuration for a routing, as data: the JSON form of its v3 API. Pure."""
