"""kill -9, of the broker while clients wait and of a publisher: nothing acknowledged is lost or there twice."""

import subprocess
import sys
import threading
import time

from brokers import BrokerProcess

from aiflow_ext import Event, EventClient, EventLog

PUBLISHERS, EACH, KILLS = 3, 40, 3
TOTAL = PUBLISHERS * EACH
PHASE = TOTAL // (KILLS + 1)


def publish_all(uri, name, offsets, permits):
    with EventClient(uri) as client:
        for i in range(EACH):
            permits.acquire()
            offsets[name, str(i)] = client.publish(Event(name, str(i)), timeout=60)


def listen(subscription, got):
    with subscription:
        while len(got) < TOTAL:
            got.append(next(subscription))


def kill_while_clients_publish_and_listen(brokers):
    """In each phase half of the events are there when a broker is killed, and more are published while it is away."""
    uri, offsets, got, permits = ",".join(b.uri for b in brokers), {}, [], threading.Semaphore(0)
    with EventClient(uri) as client:
        threads = [threading.Thread(target=listen, args=(client.subscribe(), got))]
        for n in range(PUBLISHERS):
            threads.append(threading.Thread(target=publish_all, args=(uri, f"p{n}", offsets, permits)))
        for t in threads:
            t.start()
        for kill in range(KILLS):
            permits.release(PHASE)
            while len(got) < kill * PHASE + PHASE // 2:
                threads[0].join(0.001)
            one = brokers[kill % len(brokers)]
            one.kill()
            one.start()
        permits.release(TOTAL - KILLS * PHASE)
        for t in threads:
            t.join()
        for spare in brokers[1:]:
            spare.kill()
        assert client.count() == TOTAL
    assert {(e.key, e.value): e.offset for e in got} == offsets
    assert [e.offset for e in got] == list(range(1, TOTAL + 1))
    for n in range(PUBLISHERS):
        assert [e.value for e in got if e.key == f"p{n}"] == list(map(str, range(EACH)))


def test_the_broker_is_killed_while_clients_publish_and_listen(broker_process):
    kill_while_clients_publish_and_listen([broker_process])


def test_one_of_several_brokers_is_killed_again_and_again(tmp_path, broker_process):
    """Two over one log; clients know both, and each is killed in turn."""
    other = BrokerProcess(f"ipc://{tmp_path}/other", broker_process.log)
    other.start()
    kill_while_clients_publish_and_listen([broker_process, other])


def test_a_killed_publisher_leaves_what_was_acknowledged(broker_process):
    program = f"""if True:
        from aiflow_ext import Event, EventClient
        client = EventClient("{broker_process.uri}")
        i = 0
        while True:
            print(client.publish(Event("k", str(i))), flush=True)
            i += 1
    """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        told = [int(process.stdout.readline()) for _ in range(50)]
        process.kill()
        told += map(int, process.stdout)
    broker_process.kill()
    with EventLog(broker_process.log) as log:
        events = log.read(0, 1_000_000)
    assert told == list(range(1, len(told) + 1))
    assert [e.value for e in events] == list(map(str, range(len(events))))
    assert len(told) <= len(events) <= len(told) + 1


def test_a_broker_that_was_stopped_and_goes_on_serves(broker_process, until):
    """As by Ctrl-Z and fg, for longer than its wait of a second."""
    with EventClient(broker_process.uri) as client:
        client.publish(Event("before"))
        broker_process.halt()
        stopped = time.monotonic()
        until(lambda: time.monotonic() > stopped + 1.5)
        broker_process.go_on()
        client.publish(Event("after"), timeout=60)
        until(lambda: client.status()["uptime_ms"] > 3000)  # it has looked whether it is to end
        assert broker_process.process.poll() is None
