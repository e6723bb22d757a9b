"""What kmn is measured against. Each peer lives in a network namespace of its own and cleans up after itself."""
