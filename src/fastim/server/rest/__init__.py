"""HTTP beside the hub: REST for operators and other services, health, metrics."""
