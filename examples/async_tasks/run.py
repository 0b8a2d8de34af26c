"""Send and await from a coroutine: nothing here blocks the event loop."""

from __future__ import annotations

import asyncio

from tasks import brew


async def main() -> None:
    sent = [await brew.adelay(minutes) for minutes in (3, 4, 5)]
    for tea in await asyncio.gather(*(result.aget(timeout=30) for result in sent)):
        print(tea)


asyncio.run(main())
