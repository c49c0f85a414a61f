"""Makes calls on one channel, one after the other, and says what came of each as a JSON line.

Arguments: the server's port, and a JSON list of calls: `method`, and maybe `metadata`, a list of
pairs, `bytes` to send or a `text`, `stream`, to read to the end, `cancel`, after the first message.
With AIO set, by grpc.aio, and all calls at once.
"""

import asyncio
import json
import os
import sys

import grpc

TARGET = f"127.0.0.1:{sys.argv[1]}"
CALLS = json.loads(sys.argv[2])
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_metadata_size", 128 << 10)]


def arguments(call):
    metadata = tuple((key, value) for key, value in call.get("metadata", []))
    request = call["text"].encode() if "text" in call else b"x" * call.get("bytes", 0)
    return request, {"metadata": metadata, "timeout": 20}


def text(message):
    return message.decode() if len(message) < 200_000 else f"{len(message)} bytes"


def one(channel, call):
    request, options = arguments(call)
    if not call.get("stream") and not call.get("cancel"):
        return [text(channel.unary_unary(call["method"])(request, **options))]
    messages = channel.unary_stream(call["method"])(request, **options)
    got = []
    for message in messages:
        got.append(text(message))
        if call.get("cancel"):
            messages.cancel()
    return got


async def one_aio(channel, call):
    request, options = arguments(call)
    if not call.get("stream") and not call.get("cancel"):
        return [text(await channel.unary_unary(call["method"])(request, **options))]
    messages = channel.unary_stream(call["method"])(request, **options)
    got = []
    async for message in messages:
        got.append(text(message))
        if call.get("cancel"):
            messages.cancel()
    return got


def say(code, messages):
    print(json.dumps({"code": code, "messages": messages}), flush=True)


def main():
    with grpc.insecure_channel(TARGET, OPTIONS) as channel:
        for call in CALLS:
            try:
                say("OK", one(channel, call))
            except grpc.RpcError as error:
                say(error.code().name, [])


async def main_aio():
    async def result(channel, call):
        try:
            return "OK", await one_aio(channel, call)
        except grpc.RpcError as error:
            return error.code().name, []
        except asyncio.CancelledError:
            return "CANCELLED", []

    async with grpc.aio.insecure_channel(TARGET, OPTIONS) as channel:
        for code, messages in await asyncio.gather(*(result(channel, call) for call in CALLS)):
            say(code, messages)


if "AIO" in os.environ:
    asyncio.run(main_aio())
else:
    main()
