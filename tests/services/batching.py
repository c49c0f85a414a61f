"""A proxy in one thread: receives as many requests as it is told to handle at once, on a connection each,
asks the next server for all of them, the last one first, and answers then. Passes `traceparent` on.
"""

import os
import socket

NEXT = ("127.0.0.1", int(os.environ["NEXT"]))
AT_ONCE = int(os.environ["AT_ONCE"])


def receive(stream):
    head = b""
    while b"\r\n\r\n" not in head:
        some = stream.recv(65536)
        if not some:
            return None
        head += some
    return head.split(b"\r\n")


listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=64)
while True:
    waiting = []
    while len(waiting) < AT_ONCE:
        client, _address = listener.accept()
        lines = receive(client)
        # None: who only looked whether somebody listens.
        if lines:
            waiting.append((client, lines))
    asked = []
    for client, lines in reversed(waiting):
        passed_on = [line for line in lines[1:] if line.lower().startswith(b"traceparent:")]
        request = [lines[0], b"Host: next", b"Connection: close", *passed_on, b"", b""]
        stream = socket.create_connection(NEXT)
        stream.sendall(b"\r\n".join(request))
        asked.append((client, stream))
    for client, stream in asked:
        while stream.recv(65536):
            pass
        client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        client.close()
