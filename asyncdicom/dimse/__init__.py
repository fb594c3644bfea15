"""PS3.7, without any I/O: Command Sets, messages, fragments and operations."""
