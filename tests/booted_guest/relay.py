"""A ProxyCommand: carries bytes between its own input and output and the login server of the network it runs in."""

import os
import socket
import threading

server = socket.create_connection(("127.0.0.1", 22))


def upwards() -> None:
    """Carry what the client says, to its end."""
    while data := os.read(0, 65536):
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)


threading.Thread(target=upwards, daemon=True).start()
while data := server.recv(65536):
    os.write(1, data)
