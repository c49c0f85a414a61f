"""A service that sends back what it is sent, or its client (ASK), over TLS by asyncio: the library
reads from and writes to memory, and the program moves the bytes. Knows nothing of tracing.
"""

import asyncio
import os
import ssl

PORT, TLS = int(os.environ["PORT"]), os.environ["TLS"]
SIZES = [0, 1, 5, 16_383, 16_384, 16_385, 100_000, 3_000_000]


async def head_of(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    return lines[0], int(next(line for line in lines if line.startswith(b"Content-Length:")).split()[1])


async def serve(reader, writer):
    try:
        while True:
            _, size = await head_of(reader)
            content = await reader.readexactly(size)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            writer.write(content)
            await writer.drain()
    except asyncio.IncompleteReadError:
        writer.close()


async def ask(number, context):
    reader, writer = await asyncio.open_connection(os.environ["NEXT_HOST"], PORT, ssl=context)
    for size in SIZES:
        content = os.urandom(size)
        writer.write(b"PUT /%d/%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (number, size, size))
        writer.write(content)
        await writer.drain()
        line, answered = await head_of(reader)
        assert line == b"HTTP/1.1 200 OK" and answered == size, line
        assert await reader.readexactly(size) == content, size
    writer.close()


async def main():
    if "ASK" in os.environ:
        context = ssl.create_default_context(cafile=f"{TLS}/certificate.pem")
        # The name is that of no host here.
        context.check_hostname = False
        # What the agent is to see from its start.
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, input)
        for number in range(int(os.environ["ASK"])):
            await ask(number, context)
        print("asked", flush=True)
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{TLS}/certificate.pem", f"{TLS}/key.pem")
    server = await asyncio.start_server(serve, os.environ["HOST"], PORT, ssl=context, limit=1 << 20)
    await server.serve_forever()


asyncio.run(main())
