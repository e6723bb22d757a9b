"""Features: pure functions from views of objects to flows and groups. One module each; none knows of another."""
