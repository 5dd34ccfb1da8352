"""Durable storage: the interface and what it guarantees in ``base``, a backend in each other module."""
