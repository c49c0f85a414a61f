"""A gRPC service of generic handlers: any method of any service. Knows nothing of tracing.

Notes the trace headers that it receives in the file SEEN, for the tests. With AIO set it is
one event loop, else a pool of threads. With NEXT it asks another gRPC server for every
request that it does not know by name, with NEXT_HTTP an HTTP/1.1 server.
"""

import asyncio
import http.client
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

PORT = int(os.environ["PORT"])
NEXT = os.environ.get("NEXT")
NEXT_HTTP = os.environ.get("NEXT_HTTP")
SEEN = os.open(os.environ["SEEN"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
# A method's last word tells what it does; these give messages, others one answer.
STREAMS = {"List", "FailLate", "Wait"}
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_metadata_size", 128 << 10)]

channel = grpc.insecure_channel(f"127.0.0.1:{NEXT}") if NEXT else None
local = threading.local()


def note(path, metadata):
    values = [value for key, value in metadata if key == "traceparent"]
    os.write(SEEN, f"{path} {','.join(values)}\n".encode())


def get(path):
    """Asks the next HTTP/1.1 server, on a connection that this thread keeps."""
    if not hasattr(local, "next"):
        local.next = http.client.HTTPConnection("127.0.0.1", int(NEXT_HTTP), timeout=20)
    local.next.request("GET", path)
    return local.next.getresponse().read()


def answer(path, metadata, request):
    word = path.rpartition("/")[2]
    if word == "Echo":
        return json.dumps(metadata).encode()
    if word == "Mirror":
        return request
    if word == "Large":
        return b"x" * (1 << 20)
    own = f"python {path} {len(request)} bytes\n".encode()
    if channel:
        return own + channel.unary_unary(path)(request, timeout=20)
    if NEXT_HTTP:
        return own + get(path)
    return own


def pieces(word):
    """The messages of a stream, each with the pause before it in seconds; None fails the call."""
    if word == "List":
        return [(0.02, f"message {number}\n".encode()) for number in range(5)]
    if word == "FailLate":
        return [(0, b"message 0\n"), (0, None)]
    return [(0, b"message 0\n")] + [(0.01, b"") for _ in range(1000)]


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        path = details.method
        metadata = [list(pair) for pair in details.invocation_metadata if not pair[0].endswith("-bin")]
        note(path, metadata)
        word = path.rpartition("/")[2]
        is_aio = "AIO" in os.environ
        if word in STREAMS:
            return grpc.unary_stream_rpc_method_handler(
                stream_aio(word) if is_aio else stream_threads(word)
            )
        return grpc.unary_unary_rpc_method_handler(
            unary_aio(path, metadata) if is_aio else unary_threads(path, metadata)
        )


def unary_threads(path, metadata):
    def handle(request, context):
        if path.endswith("/Fail"):
            context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        return answer(path, metadata, request)

    return handle


def stream_threads(word):
    def handle(_, context):
        for pause, message in pieces(word):
            time.sleep(pause)
            if message is None:
                context.abort(grpc.StatusCode.NOT_FOUND, "there is no more")
            if not context.is_active():
                return
            if message:
                yield message

    return handle


def unary_aio(path, metadata):
    async def handle(request, context):
        if path.endswith("/Fail"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is none")
        return answer(path, metadata, request)

    return handle


def stream_aio(word):
    async def handle(_, context):
        for pause, message in pieces(word):
            await asyncio.sleep(pause)
            if message is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, "there is no more")
            if message:
                yield message

    return handle


async def serve_aio():
    server = grpc.aio.server(handlers=[Handlers()], options=OPTIONS)
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    await server.start()
    await server.wait_for_termination()


def serve_threads():
    pool = ThreadPoolExecutor(max_workers=32)
    server = grpc.server(pool, handlers=[Handlers()], options=OPTIONS)
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    server.start()
    server.wait_for_termination()


if "AIO" in os.environ:
    asyncio.run(serve_aio())
else:
    serve_threads()
