"""The client for asyncio."""

import asyncio
import inspect
import os

import pytest

from aiflow_ext import AsyncEventClient, Event, EventClient
from aiflow_ext.errors import ClosedError


def test_it_has_all_that_the_other_has():
    def public(cls):
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(EventClient) <= public(AsyncEventClient)
    for name in public(EventClient) - {"client_id"}:
        assert inspect.iscoroutinefunction(getattr(AsyncEventClient, name)), name


def test_publish_and_ask(broker):
    async def main():
        async with AsyncEventClient(broker.uri, namespace="n", client_id="me", sequence=4) as client:
            assert await client.publish(Event("a", "1")) == 1
            assert await client.publish_many([Event("b"), Event("c")]) == [2, 3]
            assert [e.key for e in await client.list(["a", "c"])] == ["a", "c"]
            assert await client.count() == 3
            assert await client.head() == 3
            assert (client.client_id, await client.sequence()) == ("me", 7)
        with pytest.raises(ClosedError):
            await client.count()

    asyncio.run(main())


def test_many_at_once(broker):
    async def main():
        async with AsyncEventClient(broker.uri) as client:
            offsets = await asyncio.gather(*(client.publish(Event("k", str(i))) for i in range(50)))
            assert sorted(offsets) == list(range(1, 51))

    asyncio.run(main())


def test_events_as_they_come(broker):
    async def main():
        async with AsyncEventClient(broker.uri) as client:
            await client.publish(Event("old"))
            async with await client.subscribe(["a", "b"]) as subscription:

                async def publish():
                    for i in range(20):
                        await client.publish_many([Event("a", str(i)), Event("x"), Event("b", str(i))])

                publishing = asyncio.create_task(publish())
                got = []
                async for event in subscription:
                    got.append((event.key, event.value))
                    if len(got) == 40:
                        break
                await publishing
                assert got == [(k, str(i)) for i in range(20) for k in "ab"]
                assert subscription.cursor >= 60

    asyncio.run(main())


def test_poll_and_close(broker):
    async def main():
        async with AsyncEventClient(broker.uri) as client:
            subscription = await client.subscribe()
            assert await subscription.poll() == []
            assert await subscription.poll(0.02) == []
            waiting = asyncio.create_task(subscription.poll(60))
            await client.publish(Event("a"))
            assert [e.key for e in await waiting] == ["a"]

            async def iterate():
                return [event.key async for event in subscription]

            iterating = asyncio.create_task(iterate())
            await asyncio.wait([iterating], timeout=0)
            with pytest.raises(RuntimeError, match="another task"):
                await subscription.poll(1)
            subscription.close()
            assert await iterating == []
            assert (subscription.cursor, subscription.log_id) == (1, client.client.status()["log_id"])

    asyncio.run(main())


def test_a_cancelled_wait_loses_nothing(broker):
    async def main():
        async with AsyncEventClient(broker.uri) as client, await client.subscribe(after=0) as subscription:
            got = []
            for i in range(10):
                waiting = asyncio.create_task(anext(subscription))
                await asyncio.wait([waiting], timeout=0)
                if not waiting.cancel():  # it has one already
                    got.append(waiting.result())
                await client.publish(Event(str(i)))
            while len(got) < 10:
                got.append(await anext(subscription))
            assert [e.key for e in got] == list(map(str, range(10)))

    asyncio.run(main())


def test_a_control_event_ends_it(broker):
    async def main():
        async with AsyncEventClient(broker.uri) as client:
            subscription = await client.subscribe(control=[("default", "end", "*", "*")])
            await client.publish_many([Event("a"), Event("end"), Event("b")])
            assert [e.key async for e in subscription] == ["a"]
            assert subscription.stopped

    asyncio.run(main())


def test_listen(broker):
    async def main():
        loop = asyncio.get_running_loop()
        heard = loop.create_future()
        async with AsyncEventClient(broker.uri) as client:
            await client.listen(lambda events: loop.call_soon_threadsafe(heard.set_result, events))
            await client.publish(Event("a"))
            assert [e.key for e in await asyncio.wait_for(heard, 60)] == ["a"]

    asyncio.run(main())


def test_a_descriptor_that_was_closed_may_be_another_ones_at_once(broker):
    async def main():
        loop = asyncio.get_running_loop()
        async with AsyncEventClient(broker.uri) as client:
            subscription = await client.subscribe("a")
            waiting = asyncio.create_task(subscription.poll(60))
            while subscription._waiting is None:
                await asyncio.sleep(0)  # pace: until it waits
            fd = subscription.fileno()
            subscription.close()
            readable, writable = os.pipe()
            os.dup2(readable, fd)
            woken = asyncio.Event()
            loop.add_reader(fd, woken.set)
            assert await waiting == []
            os.write(writable, b"x")
            await asyncio.wait_for(woken.wait(), 60)
            loop.remove_reader(fd)
            for ours in {fd, readable, writable}:
                os.close(ours)

    asyncio.run(main())
