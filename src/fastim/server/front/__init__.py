"""The front: sockets, request heads and handshakes, before anybody is known."""
