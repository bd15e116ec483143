"""Drops work queues in JetStream: the items that nobody wants, and then the consumer.

Items lie in the stream and not in the consumer: what comes after it has gone is kept, and found by the
consumer that is made next.
"""

from __future__ import annotations

from nats.js.api import ConsumerInfo
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from seedbed.runtime.bus.nats_work import STREAM, consumer_of, subject_of
from seedbed.runtime.bus.port import Unwanted

MOST = 2000
"""Items that are looked at in one go."""
_SPACE = "work."


async def queues(stream: JetStreamContext) -> list[str]:
    """Names of the queues that have a consumer."""
    found: list[str] = []
    try:
        while page := await stream.consumers_info(STREAM, offset=len(found)):
            found += [(one.config.filter_subject or "").removeprefix(_SPACE) for one in page]
    except NotFoundError:  # nobody has put anything yet
        return []
    return found


async def drop_queue(stream: JetStreamContext, queue: str, unwanted: Unwanted) -> bool:
    """See the port."""
    try:
        if _is_pulled(await stream.consumer_info(STREAM, consumer_of(queue))):
            return False
        if not await _empty(stream, subject_of("work", queue), unwanted):
            return False
        found = await stream.consumer_info(STREAM, consumer_of(queue))
        if _is_pulled(found) or found.num_pending or found.num_ack_pending:
            return False
        return await stream.delete_consumer(STREAM, consumer_of(queue))
    except NotFoundError:
        return False


async def _empty(stream: JetStreamContext, subject: str, unwanted: Unwanted) -> bool:
    """Take out what nobody wants, up to the first item that somebody does; whether that was all."""
    after = 1
    for _ in range(MOST):
        try:
            item = await stream.get_msg(STREAM, seq=after, subject=subject, next=True)
        except NotFoundError:
            return True
        if item.seq is None or not await unwanted(item.data or b""):
            return False
        await stream.delete_msg(STREAM, item.seq)
        after = item.seq + 1
    return False


def _is_pulled(consumer: ConsumerInfo) -> bool:
    return bool(consumer.num_waiting)
