"""Reading a cluster file: schema, defaults, and what a schema cannot say. The result is a ``ClusterSpec``.

The schema is published in ``kmn/schemas/cluster.schema.json``. Networks that overlap, names used twice, routers that
nothing leads to and the like are checked here; all errors are told at once, by field and with what would be right.
"""

from kmn.cluster_file.reader import ClusterFileError, load, parse

__all__ = ["ClusterFileError", "load", "parse"]
