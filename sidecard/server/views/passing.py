"""Pass a descriptor to a peer, with the reply that announces it.

Transports of asyncio and uvloop send no ancillary data. So the whole frame is sent on the peer's socket itself, when the transport
has nothing left to send. Two interleavings are prevented:

1. The transport has sent half of an earlier reply. 2. The frame is sent. 3. The transport sends the other half.
The frame would be within the reply, so it waits until the transport's buffer is empty.

1. A peer that never reads asks for many views. 2. Its unread descriptors count for the daemon's user. 3. The kernel refuses
to pass any descriptor of that user (ETOOMANYREFS). So a peer gets its next one when it has read everything before.
"""

import fcntl
import socket
import struct
import termios

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def pass_descriptor(peer: int, frame: bytes, descriptor: int) -> int:
    """Send a frame with a descriptor on the socket ``peer``, if its reader has read everything before.

    Return how many bytes were sent, the descriptor with the first; 0 if that must wait. Raises `OSError` as sendmsg(2) does.
    """
    if _unread_bytes(peer):
        return 0

    # Borrowed for one call: the transport owns the descriptor of the socket.
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, peer)
    try:
        # `socket.send_fds` ignores its flags.
        return connected.sendmsg(
            [frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))], _FLAGS
        )
    except BlockingIOError:
        return 0
    finally:
        connected.detach()


def _unread_bytes(peer: int) -> int:
    """Return how many bytes the reader of a Unix socket has not read yet, with the kernel's overhead."""
    return int.from_bytes(fcntl.ioctl(peer, termios.TIOCOUTQ, bytes(4)), "little")
