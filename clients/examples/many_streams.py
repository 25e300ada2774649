"""Ask many questions at once over one client, each answer a stream of its own, with asyncio.

python many_streams.py grpc://127.0.0.1:8001 "What is rain?" "What is iron?" "What is bread?"
"""

import asyncio
import sys

from tritonyard import AsyncClient


async def ask(client: AsyncClient, question: str) -> str:
    answer = client.chat([{"role": "user", "content": question}], max_tokens=40, stream=True)
    async for delta in answer:
        print(delta.text, end="|", flush=True)  # in between those of the others
    return f"{question} {answer.text!r}\n  {answer.usage} {answer.timing}"


async def main(url: str, questions: list[str]) -> None:
    async with AsyncClient(url, model="smollm2", timeout=120) as client:
        answers = await asyncio.gather(*(ask(client, question) for question in questions))
    print("", *answers, sep="\n")


asyncio.run(main(sys.argv[1], sys.argv[2:]))
