"""Store and forward by rules: what comes is kept in the archive, and sent on from there."""
