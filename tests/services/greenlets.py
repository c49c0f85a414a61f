"""Serves each connection on a greenlet, which ends when it has handed its answer to the kernel.

`/long` is answered with more than the client's receive buffer takes; the others ask the next server
first.
"""

from gevent import monkey

monkey.patch_all()

import os
import socket

from gevent.server import StreamServer

NEXT = ("127.0.0.1", int(os.environ["NEXT"]))


def ask(path):
    with socket.create_connection(NEXT) as stream:
        head = f"GET {path}/call HTTP/1.1\r\nHost: next\r\nConnection: close\r\n\r\n"
        stream.sendall(head.encode())
        while stream.recv(65536):
            pass


def serve(client, _address):
    head = b""
    while b"\r\n\r\n" not in head:
        some = client.recv(65536)
        if not some:
            return
        head += some
    path = head.split()[1].decode()
    content = b"x" * 300_000
    if path != "/long":
        ask(path)
        content = b"ok"
    answer = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    client.sendall(answer.encode() + content)
    client.close()


StreamServer(("127.0.0.1", int(os.environ["PORT"])), serve).serve_forever()
