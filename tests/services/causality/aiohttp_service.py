"""CPython asyncio, one thread: aiohttp server and client.

Typical: all requests share one event loop thread; each is a task, parallel
calls are asyncio.gather, background work is asyncio.create_task.
"""

import asyncio
import os

import aiohttp
from aiohttp import web

from store import AsyncStore

NEXT = "http://" + os.environ["NEXT"]
routes = web.RouteTableDef()
session = None
store = None
jobs = set()


async def get(path):
    async with session.get(NEXT + path) as answer:
        await answer.read()
        return answer.status


@routes.get(r"/one/{id:\d+}")
async def one(request):
    id = request.match_info["id"]
    await get(f"/one/{id}/0")
    return web.Response(text="ok")


@routes.get(r"/sequence/{id:\d+}")
async def sequence(request):
    id = request.match_info["id"]
    for i in range(3):
        await get(f"/sequence/{id}/{i}")
    return web.Response(text="ok")


@routes.get(r"/parallel/{id:\d+}")
async def parallel(request):
    id = request.match_info["id"]
    await asyncio.gather(*(get(f"/parallel/{id}/{i}") for i in range(3)))
    return web.Response(text="ok")


@routes.get(r"/timer/{id:\d+}")
async def timer(request):
    id = request.match_info["id"]
    await asyncio.sleep(0.02)
    await get(f"/timer/{id}/0")
    return web.Response(text="ok")


async def later(path):
    await asyncio.sleep(0.03)
    await get(path)


@routes.get(r"/background/{id:\d+}")
async def background(request):
    id = request.match_info["id"]
    job = asyncio.create_task(later(f"/background/{id}/0"))
    jobs.add(job)
    job.add_done_callback(jobs.discard)
    return web.Response(text="ok")


@routes.get(r"/retry/{id:\d+}")
async def retry(request):
    id = request.match_info["id"]
    if await get(f"/retry/{id}/0") == 503:
        await get(f"/retry/{id}/1")
    return web.Response(text="ok")


@routes.get(r"/datastore/{id:\d+}")
async def datastore(request):
    id = request.match_info["id"]
    await store.query(id)
    await get(f"/datastore/{id}/0")
    return web.Response(text="ok")


async def client(app):
    global session, store
    store = AsyncStore()
    connector = aiohttp.TCPConnector(limit=512, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield


app = web.Application()
app.add_routes(routes)
app.cleanup_ctx.append(client)
web.run_app(
    app,
    host="127.0.0.1",
    port=int(os.environ["PORT"]),
    access_log=None,
    print=None,
    shutdown_timeout=1,
    backlog=512,
)
