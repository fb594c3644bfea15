"""Fuzzing of everything that reads what a peer sent: ``python -m fuzz --seconds 60``. See README.md here."""
