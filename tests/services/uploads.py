"""Uploads by blocking sockets, to a server that reads slowly.

With PORT it serves: it reads each body in pieces, and answers with its length.
With TO it is the client: COUNT uploads of SIZE bytes, each on a connection of its own, with a send buffer
of BUFFER bytes unless that is 0. Each has to be answered; what goes wrong it prints.
"""

import http.client
import os
import socket
import threading
import time


def serve(port):
    def converse(connection):
        with connection, connection.makefile("rb") as stream:
            stream.readline()
            length = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            left = length
            while left:
                left -= len(stream.read(min(left, 3_000)))
            time.sleep(0.002)
            text = str(length).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
            stream.read()

    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection,), daemon=True).start()


def upload(port, number, body, buffer):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.connect()
    if buffer:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    try:
        connection.request("POST", f"/{number}", body=body)
        assert connection.getresponse().read() == str(len(body)).encode()
    finally:
        connection.close()


def uploads(port, count, size, buffer):
    body = bytes(size)
    failures = 0
    for number in range(count):
        try:
            upload(port, number, body, buffer)
        except (OSError, http.client.HTTPException) as error:
            print(f"upload {number}: {error!r}", flush=True)
            failures += 1
    print(f"{count} uploads, {failures} failed", flush=True)


if "PORT" in os.environ:
    serve(int(os.environ["PORT"]))
else:
    uploads(*(int(os.environ[name]) for name in ("TO", "COUNT", "SIZE", "BUFFER")))
