"""Network policies as data: what they say (``model``), whom they select (``selection``), what follows (``verdicts``).

Pure: no sockets, no API. The controller makes flows of it, the command line explains with it. ``flows`` is what the two
agree on; of ``world``, which is all that is known, are ``log`` and ``counters`` of what the flows decided.
"""
