"""The wire suite: what peers get wrong, as data, and the reaction that is due. No sockets here."""
