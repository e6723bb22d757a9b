"""What kmn's own programs in pods (``kmn.dns``, ``kmn.ingress``) share: changes of objects, and the pods to run in."""
