"""A TCP link to a server: `python link.py PORT TARGET` hands on what comes to PORT, until it is killed.

A link that is killed looks like a server that is down: its connections end, and new ones are refused. One that is
stopped by SIGSTOP looks like a network that swallows everything.
"""

import asyncio
import sys
from contextlib import suppress

HOST = "127.0.0.1"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hand on one direction until it ends."""
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def serve(port: int, target: int) -> None:
    """Hand on connections to the target."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            beyond, onward = await asyncio.open_connection(HOST, target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, onward), pump(beyond, writer))

    async with await asyncio.start_server(connected, HOST, port, reuse_address=True) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
