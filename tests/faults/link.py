"""A TCP link to a server: `python link.py PORT TARGET` hands on what comes to PORT, until it is killed.

A link that is killed looks like a server that is down: its connections end, and new ones are refused. One that is
stopped by SIGSTOP looks like a network that swallows everything: connections stay, and new ones are taken, but nothing
comes through. `python link.py PORT TARGET WORD` looks like a proxy that fails at the worst moment: of what clients send
with WORD in it, the server gets every piece and carries it out, but of every other piece the client never hears, since
its connection ends before the answer.
"""

import asyncio
import sys
from contextlib import suppress

HOST = "127.0.0.1"


class Link:
    """The connections of one port."""

    def __init__(self, target: int, word: bytes) -> None:
        """Lead to a port; keep back answers to what holds the word, if it is not empty."""
        self.target, self.word = target, word
        self.seen = 0  #: how often the word came

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand on both directions of a connection."""
        try:
            beyond, onward = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.close()
            return
        failing = asyncio.Event()
        await asyncio.gather(self.send(reader, onward, failing), self.answer(beyond, writer, failing))
        onward.close()

    async def send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, failing: asyncio.Event) -> None:
        """Hand on what the client sends until it ends."""
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.word and self.word in data:
                    self.seen += 1
                    if self.seen % 2:
                        failing.set()
                writer.write(data)
                await writer.drain()
        if not failing.is_set():  # else the connection to the server stays until it has answered
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, failing: asyncio.Event) -> None:
        """Hand on what the server answers until it ends, or until the answer that is to be kept back."""
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if failing.is_set():
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


async def serve(port: int, target: int, word: str = "") -> None:
    """Hand on connections to the target."""
    link = Link(target, word.encode())
    async with await asyncio.start_server(link.connected, HOST, port, reuse_address=True) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
