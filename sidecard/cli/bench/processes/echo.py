"""A minimal echo server, the lower bound of a round trip: answers REQUEST_BYTES with REPLY_BYTES.

``python -m sidecard.cli.bench.processes.echo PATH REQUEST_BYTES REPLY_BYTES``
"""

import socket
import sys


def main(path: str, request_bytes: int, reply_bytes: int) -> None:
    """Serve one connection after another with blocking calls."""
    reply = b"y" * reply_bytes
    buffer = bytearray(request_bytes)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                received = 0
                while size := connection.recv_into(buffer):
                    received += size
                    if received == request_bytes:
                        received = 0
                        connection.sendall(reply)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
