"""The wiring: settings, the front, the service, HTTP and the life of the process."""
