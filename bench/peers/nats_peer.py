"""NATS JetStream through nats-py: a stream with file storage, ordered consumers."""

import asyncio

import nats

STREAM = "BENCH"
WAITING = 1000  # acknowledgements under way at once


class Publisher:
    def __init__(self, address):
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.connect(address))

    async def connect(self, address):
        self.js = (await nats.connect(address)).jetstream(timeout=30, publish_async_max_pending=WAITING)
        await self.js.add_stream(name=STREAM, subjects=["bench"], storage="file")

    def publish(self, values):
        self.loop.run_until_complete(self.publish_all(values))

    async def publish_all(self, values):
        if len(values) == 1:
            await self.js.publish("bench", values[0].encode())
            return
        futures = [await self.js.publish_async("bench", v.encode()) for v in values]
        await asyncio.gather(*futures)


class Subscribers:
    """All on one connection, as its users do."""

    def __init__(self, address, n, heard):
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.connect(address, n, heard))

    async def connect(self, address, n, heard):
        js = (await nats.connect(address)).jetstream(timeout=30)
        await js.add_stream(name=STREAM, subjects=["bench"], storage="file")
        for i in range(n):
            await js.subscribe("bench", ordered_consumer=True, deliver_policy="new", cb=self.callback(i, heard))

    def callback(self, i, heard):
        async def came(message):
            heard(i, [message.data.decode()])

        return came

    def serve(self, stop):
        async def wait():
            while not stop.is_set():
                await asyncio.sleep(0.1)

        self.loop.run_until_complete(wait())
