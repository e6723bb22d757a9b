"""The life of a program beside the control plane: it follows the API, and works until it is told to end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from kmn.k8s.feed import Feed

__all__ = ["serve"]


async def serve(feeds: Sequence[Feed], work: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Until SIGTERM or SIGINT, or until some of the work ends: what it raised is raised.

    Work begins when the feeds know everything: until then, a closed port is better than a wrong answer.
    """
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    ending = asyncio.create_task(told.wait())
    for feed in feeds:
        feed.start()
    knowing = asyncio.create_task(_known(feeds))
    await asyncio.wait({ending, knowing}, return_when=asyncio.FIRST_COMPLETED)
    working = [] if ending.done() else [asyncio.create_task(each()) for each in work]
    await asyncio.wait({ending, *working}, return_when=asyncio.FIRST_COMPLETED)
    for feed in feeds:
        feed.stop()
    ended = [task for task in working if task.done()]
    for task in (ending, knowing, *working):
        task.cancel()
    await asyncio.gather(ending, knowing, *working, return_exceptions=True)
    for task in ended:
        task.result()


async def _known(feeds: Sequence[Feed]) -> None:
    for feed in feeds:
        await feed.synced.wait()
