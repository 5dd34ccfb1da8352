"""Recovery of connections: a client that comes back soon is as if it had never been gone."""
