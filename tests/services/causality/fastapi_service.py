"""CPython, FastAPI on uvicorn, client httpx.

Typical: with `async def` endpoints all runs on the event loop thread. With
ENDPOINTS=def the loop thread reads the request and writes the answer, and a
thread of anyio's pool runs the endpoint and its blocking calls. Background
work is FastAPI's BackgroundTasks: it runs after the answer is sent.
"""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import uvicorn
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import PlainTextResponse

from store import AsyncStore, Store

NEXT = "http://" + os.environ["NEXT"]
OPTIONS = dict(
    base_url=NEXT,
    limits=httpx.Limits(
        max_connections=512, max_keepalive_connections=512, keepalive_expiry=60
    ),
    timeout=20,
    trust_env=False,
)
app = FastAPI(default_response_class=PlainTextResponse)


def asynchronous():
    client = httpx.AsyncClient(**OPTIONS)
    store = AsyncStore()

    async def get(path):
        return (await client.get(path)).status_code

    @app.get("/one/{id}")
    async def one(id: int):
        await get(f"/one/{id}/0")
        return "ok"

    @app.get("/sequence/{id}")
    async def sequence(id: int):
        for i in range(3):
            await get(f"/sequence/{id}/{i}")
        return "ok"

    @app.get("/parallel/{id}")
    async def parallel(id: int):
        await asyncio.gather(*(get(f"/parallel/{id}/{i}") for i in range(3)))
        return "ok"

    @app.get("/timer/{id}")
    async def timer(id: int):
        await asyncio.sleep(0.02)
        await get(f"/timer/{id}/0")
        return "ok"

    async def later(path):
        await asyncio.sleep(0.03)
        await get(path)

    @app.get("/background/{id}")
    async def background(id: int, tasks: BackgroundTasks):
        tasks.add_task(later, f"/background/{id}/0")
        return "ok"

    @app.get("/retry/{id}")
    async def retry(id: int):
        if await get(f"/retry/{id}/0") == 503:
            await get(f"/retry/{id}/1")
        return "ok"

    @app.get("/datastore/{id}")
    async def datastore(id: int):
        await store.query(id)
        await get(f"/datastore/{id}/0")
        return "ok"

    @app.on_event("shutdown")
    async def shutdown():
        await client.aclose()


def blocking():
    client = httpx.Client(**OPTIONS)
    store = Store()
    pool = ThreadPoolExecutor(max_workers=384)

    def get(path):
        return client.get(path).status_code

    @app.get("/one/{id}")
    def one(id: int):
        get(f"/one/{id}/0")
        return "ok"

    @app.get("/sequence/{id}")
    def sequence(id: int):
        for i in range(3):
            get(f"/sequence/{id}/{i}")
        return "ok"

    @app.get("/parallel/{id}")
    def parallel(id: int):
        list(pool.map(get, [f"/parallel/{id}/{i}" for i in range(3)]))
        return "ok"

    @app.get("/timer/{id}")
    def timer(id: int):
        time.sleep(0.02)
        get(f"/timer/{id}/0")
        return "ok"

    def later(path):
        time.sleep(0.03)
        get(path)

    @app.get("/background/{id}")
    def background(id: int, tasks: BackgroundTasks):
        tasks.add_task(later, f"/background/{id}/0")
        return "ok"

    @app.get("/retry/{id}")
    def retry(id: int):
        if get(f"/retry/{id}/0") == 503:
            get(f"/retry/{id}/1")
        return "ok"

    @app.get("/datastore/{id}")
    def datastore(id: int):
        store.query(id)
        get(f"/datastore/{id}/0")
        return "ok"

    @app.on_event("startup")
    async def startup():
        anyio.to_thread.current_default_thread_limiter().total_tokens = 160


if os.environ.get("ENDPOINTS") == "def":
    blocking()
else:
    asynchronous()

uvicorn.run(
    app,
    host="127.0.0.1",
    port=int(os.environ["PORT"]),
    log_level="warning",
    loop=os.environ.get("LOOP", "asyncio"),
    access_log=False,
    timeout_keep_alive=60,
)
