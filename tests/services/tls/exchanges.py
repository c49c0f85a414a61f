"""A service that answers each connection as it is told, or its client (ASK), over TLS by blocking sockets.
Knows nothing of tracing.

EXCHANGES is a JSON file: a list of `request`, pieces that the client sends one by one, `response`, which the
server sends when it has them all, and `afterwards`, which the client sends after it; bytes in hex. What the
connections receive is written to the directory RECORD, as file `N`. The client begins when it is told a line.
"""

import json
import os
import socket
import ssl

TLS = os.environ["TLS"]
PORT = int(os.environ["PORT"])
RECORD = os.environ["RECORD"]
with open(os.environ["EXCHANGES"], encoding="utf-8") as file:
    EXCHANGES = json.load(file)


def receive(connection, size):
    """So many bytes, or fewer if the other side closes."""
    received = bytearray()
    while len(received) < size and (piece := connection.recv(size - len(received))):
        received += piece
    return bytes(received)


def record(number, received):
    with open(f"{RECORD}/{number}", "wb") as file:
        file.write(received)


def serve():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{TLS}/certificate.pem", f"{TLS}/key.pem")
    listener = socket.create_server((os.environ["HOST"], PORT))
    for number, exchange in enumerate(EXCHANGES):
        with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
            request, afterwards = "".join(exchange["request"]), exchange["afterwards"]
            received = receive(connection, len(request) // 2)
            connection.sendall(bytes.fromhex(exchange["response"]))
            received += receive(connection, len(afterwards) // 2)
            record(number, received)
            # Until the client closes.
            receive(connection, 1)
    print("served", flush=True)


def ask():
    context = ssl.create_default_context(cafile=f"{TLS}/certificate.pem")
    # The name is that of no host here.
    context.check_hostname = False
    # What the agent is to see from its start.
    print("ready", flush=True)
    input()
    for number, exchange in enumerate(EXCHANGES):
        plain = socket.create_connection((os.environ["NEXT_HOST"], PORT), timeout=20)
        with context.wrap_socket(plain) as connection:
            for piece in exchange["request"]:
                connection.sendall(bytes.fromhex(piece))
            record(number, receive(connection, len(exchange["response"]) // 2))
            connection.sendall(bytes.fromhex(exchange["afterwards"]))
    print("asked", flush=True)


ask() if "ASK" in os.environ else serve()
