"""Network policies as data: what they say (``model``), whom they select (``selection``), what follows (``verdicts``).

Pure: no packets, no API. The controller makes flows of it, the command line explains with it.
"""
