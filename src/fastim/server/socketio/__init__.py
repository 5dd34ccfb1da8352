"""Socket.IO, protocol 5: clients of Engine.IO sessions in namespaces, with the handlers of native ones."""
