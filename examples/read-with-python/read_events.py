"""Reads a stream that Outbox Bridge writes, from Python: prints each event's CloudEvents attributes and its body.

    python read_events.py --server nats://127.0.0.1:4222 ORDERS

It has a durable consumer, so the next run goes on where this one ended. A message that was not acknowledged comes again:
a service does its work and remembers `ce-id` in one transaction of its database, and acknowledges after that.
"""

import argparse
import asyncio
from urllib.parse import unquote

import nats
from nats.errors import TimeoutError as NothingYet
from nats.js.api import AckPolicy, ConsumerConfig

# Bodies that are too large for a message lie in JetStream's object store, and this header says where.
DATAREF = "ce-dataref"
OBJECT = "nats-object://"


async def body_of(jetstream, message):
    """The body of an event, wherever it lies."""
    reference = (message.headers or {}).get(DATAREF)
    if reference is None:
        return message.data
    if not reference.startswith(OBJECT):
        raise ValueError(f"{DATAREF} is of a kind that is not known here: {reference}")
    # The object's name is what follows the bucket, as it stands.
    bucket, _, name = reference.removeprefix(OBJECT).partition("/")
    store = await jetstream.object_store(bucket)
    return (await store.get(name)).data


def show(message, body):
    """Prints an event. Attributes are percent-encoded where they are not plain ASCII."""
    print(message.metadata.sequence.stream, message.subject)
    for name, value in sorted((message.headers or {}).items()):
        if name.startswith("ce-"):
            print(f"  {name}: {value if name == DATAREF else unquote(value)}")
    print(f"  {body.decode(errors='replace')}\n", flush=True)


async def read(arguments):
    """Reads until there were as many events as asked for."""
    client = await nats.connect(arguments.server)
    try:
        jetstream = client.jetstream()
        config = ConsumerConfig(durable_name=arguments.durable, ack_policy=AckPolicy.EXPLICIT)
        await jetstream.add_consumer(arguments.stream, config)
        events = await jetstream.pull_subscribe_bind(arguments.durable, arguments.stream)
        seen = 0
        while arguments.count is None or seen < arguments.count:
            try:
                [message] = await events.fetch(1, timeout=5)
            except NothingYet:
                continue
            show(message, await body_of(jetstream, message))
            await message.ack_sync()
            seen += 1
    finally:
        await client.close()


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Prints the events of a stream that Outbox Bridge writes")
    parser.add_argument("--server", default="nats://127.0.0.1:4222", help="the NATS server")
    parser.add_argument("--durable", default="read-with-python", help="the name of the durable consumer")
    parser.add_argument("--count", type=int, help="stop after so many events instead of waiting for more")
    parser.add_argument("stream", help="the stream")
    try:
        asyncio.run(read(parser.parse_args()))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
