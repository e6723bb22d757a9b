"""The ``kmn`` command. Modules are imported by the command that needs them: ``kmn --help`` starts in an instant."""
