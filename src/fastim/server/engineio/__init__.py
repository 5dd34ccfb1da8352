"""Engine.IO, revision 4: sessions over long-polling and WebSocket, and the way from one to the other."""
