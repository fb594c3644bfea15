"""The stored files: where they lie, how they are written and looked at."""
