"""A server with one thread, which takes three requests by turns. For the first it asks the next server, and passes the
front of that answer on. Then it reads the third, asks for the second, and ends all three.
"""

import os
import socket

NEXT = ("127.0.0.1", int(os.environ["NEXT"]))


def path(client):
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(65536)
    return head.split(b" ")[1]


def ask(stream, path):
    stream.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: next\r\n\r\n")


listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=64)
first, second, third = (listener.accept()[0] for _ in range(3))
streams = [socket.create_connection(NEXT) for _ in range(2)]
paths = [path(first), path(second)]
ask(streams[0], paths[0])
first.sendall(streams[0].recv(65536))
path(third)
ask(streams[1], paths[1])
second.sendall(streams[1].recv(65536))
first.sendall(streams[0].recv(65536))
third.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
# Until it is told to end.
listener.accept()
