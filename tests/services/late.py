"""A server with a thread for each connection. /late answers at once, and asks the next server when /held has come,
with the `traceparent` that /late came with; /held is answered after that.
"""

import os
import socket
import threading

NEXT = ("127.0.0.1", int(os.environ["NEXT"]))
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
held, asked = threading.Event(), threading.Event()


def serve(client):
    head = b""
    while b"\r\n\r\n" not in head:
        some = client.recv(65536)
        if not some:
            return
        head += some
    lines = head.split(b"\r\n")
    if lines[0].startswith(b"GET /held "):
        held.set()
        asked.wait(10)
    client.sendall(OK)
    client.close()
    if lines[0].startswith(b"GET /late "):
        held.wait(10)
        passed_on = [line for line in lines[1:] if line.lower().startswith(b"traceparent:")]
        request = [lines[0], b"Host: next", b"Connection: close", *passed_on, b"", b""]
        with socket.create_connection(NEXT) as stream:
            stream.sendall(b"\r\n".join(request))
            while stream.recv(65536):
                pass
        asked.set()


listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=64)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],)).start()
