"""Redis Streams through redis-py: XADD, and XREAD BLOCK on a connection for each subscriber."""

import asyncio

import redis
import redis.asyncio

STREAM = "bench"
READ = 1000


class Publisher:
    def __init__(self, address):
        self.redis = redis.Redis.from_url(address)

    def publish(self, values):
        if len(values) == 1:
            self.redis.xadd(STREAM, {"v": values[0]})
            return
        pipe = self.redis.pipeline(transaction=True)
        for v in values:
            pipe.xadd(STREAM, {"v": v})
        pipe.execute()


class Subscribers:
    def __init__(self, address, n, heard):
        self.clients = [redis.asyncio.Redis.from_url(address) for _ in range(n)]
        self.heard = heard
        last = redis.Redis.from_url(address).xrevrange(STREAM, count=1)
        self.after = last[0][0] if last else b"0"

    def serve(self, stop):
        asyncio.run(self.serve_all(stop))

    async def serve_all(self, stop):
        await asyncio.gather(*(self.follow(i, client, stop) for i, client in enumerate(self.clients)))

    async def follow(self, i, client, stop):
        after = self.after
        while not stop.is_set():
            for _, entries in await client.xread({STREAM: after}, count=READ, block=500):
                after = entries[-1][0]
                self.heard(i, [fields[b"v"].decode() for _, fields in entries])
