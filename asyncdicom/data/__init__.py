"""Data sets as bytes (PS3.5) and Part 10 files (PS3.10), without pydicom."""
