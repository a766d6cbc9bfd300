"""A firewall between a service and a broker: it drops connections silently."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Firewall:
    """Passes connections on to a port of this machine, from a port of its own."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._generation = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    def forget(self) -> None:
        """From now on nothing passes on the connections that there are, and they stay open."""
        self._generation += 1

    def close(self) -> None:
        """Close them all."""
        # A thread that waits in `accept` is not woken by a mere close.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for one in [self._listening, *self._sockets]:
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    arguments = (source, target, self._generation)
                    threading.Thread(target=self._pass, args=arguments, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, generation: int) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if generation == self._generation:
                    target.sendall(data)
            # Close the other side too, or the server would keep connections without a client.
            target.shutdown(socket.SHUT_WR)


@contextmanager
def firewall(port: int) -> Iterator[Firewall]:
    """Put one before a port."""
    made = Firewall(port)
    try:
        yield made
    finally:
        made.close()
