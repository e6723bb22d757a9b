"""Ingress as the users of one controller know it: what its annotations mean, read into ``kmn.ingress.model``. Pure."""
