"""A provider that costs next to nothing: answers every image edit after a set time with one prepared picture.

`python provider.py PORT SECONDS PICTURE`. The local stack's stand-in draws a picture for each call, which is
nice to look at but would take the processor from what is measured here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path


def prepared_answer(picture: bytes) -> bytes:
    body = json.dumps(
        {
            "created": 0,
            "data": [{"b64_json": base64.b64encode(picture).decode()}],
            "usage": {
                "input_tokens": 752,
                "output_tokens": 1584,
                "total_tokens": 2336,
                "input_tokens_details": {"text_tokens": 80, "image_tokens": 672},
                "output_tokens_details": {"text_tokens": 0, "image_tokens": 1584},
            },
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve(port: int, seconds: float, answer: bytes) -> None:
    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                await reader.readexactly(length)
                await asyncio.sleep(seconds)
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, limit=2**22)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), prepared_answer(Path(sys.argv[3]).read_bytes())))
