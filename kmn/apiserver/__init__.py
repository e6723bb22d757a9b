"""The API server: what ``kubectl`` and every part of kmn talk to.

``store`` keeps objects and their history, ``registry`` holds the rules of the API (metadata, deletion, patches),
``local`` is the client inside the process, ``server`` serves the same over HTTPS.
"""
