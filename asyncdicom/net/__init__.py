"""The only place with sockets, the event loop, TLS and the clock."""
