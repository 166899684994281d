"""Condition variables by topic: news wakes those whom it concerns, so that its cost does not grow with all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable


class Topics:
    """For the coroutines of one event loop, which run without interruption: there is nothing to lock."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, set[asyncio.Future[None]]] = {}

    def notify(self, *topics: Hashable) -> None:
        """Let all who wait for one of these topics look again."""
        for topic in topics:
            for waiting in self._waiting.get(topic, ()):
                if not waiting.done():
                    waiting.set_result(None)

    async def wait(self, topic: Hashable, ready: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds, looking again whenever the topic is notified; returns whether it does.

        Args:
            seconds: after so many of them nobody waits any longer.
        """
        end = asyncio.get_running_loop().time() + seconds
        while not ready():
            if not await self._news(topic, end):
                return ready()
        return True

    async def _news(self, topic: Hashable, end: float) -> bool:
        """Wait for a notification, until a time of the event loop's clock; returns whether there was one."""
        news = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(topic, set()).add(news)
        try:
            async with asyncio.timeout_at(end):
                await news
        except TimeoutError:
            return False
        finally:
            self._waiting[topic].discard(news)
            if not self._waiting[topic]:
                del self._waiting[topic]
        return True

    def __len__(self) -> int:
        """Of how many topics somebody waits for news."""
        return len(self._waiting)
