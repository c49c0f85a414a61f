"""Clients of the datastore, which does not speak HTTP: a line is a query, a line its row.

Typical: a pool of ten connections, as drivers of databases have it. A request that finds
none idle waits until another gives one back.
"""

import asyncio
import os
import queue
import socket

HOST, PORT = os.environ["STORE"].split(":")
CONNECTIONS = 10


def check(row, key):
    if row != f"row {key}\n".encode():
        raise ConnectionError(f"the row of {key} is {row!r}")


class Store:
    """For threads, and for what looks like them. Nothing is opened before its first use."""

    def __init__(self):
        self.idle = queue.LifoQueue()
        for _ in range(CONNECTIONS):
            self.idle.put(None)

    def query(self, key):
        connection = self.idle.get()
        try:
            if connection is None:
                stream = socket.create_connection((HOST, int(PORT)), timeout=20)
                connection = stream.makefile("rwb")
            connection.write(f"query {key}\n".encode())
            connection.flush()
            check(connection.readline(), key)
        finally:
            self.idle.put(connection)


class AsyncStore:
    """For asyncio."""

    def __init__(self):
        self.idle = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self.idle.put_nowait(None)

    async def query(self, key):
        connection = await self.idle.get()
        try:
            if connection is None:
                connection = await asyncio.open_connection(HOST, int(PORT))
            reader, writer = connection
            writer.write(f"query {key}\n".encode())
            check(await reader.readline(), key)
        finally:
            self.idle.put_nowait(connection)
