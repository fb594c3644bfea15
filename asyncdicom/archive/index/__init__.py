"""The index: what is stored, and how it is found. Nothing outside speaks SQL."""
