"""What is told about a running process: log lines and counters."""
