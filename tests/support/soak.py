"""Sends a long mix of requests to a service. Some are good, some slow, some aborted, and some invalid.

    python tests/support/soak.py BUNDLE --images NPZ|DIR [--service ray|PATH] [--requests N] [--seconds S] [--clients N]

Responses to good requests must have the same bits as the engine's outputs. The exit code is 1 if a response is wrong or
missing, if images are left in the service's queue, or if the program can't run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import numpy as np
from bad_requests import malformed, no_http, oversized
from command_line import cells, count, positive, table
from serving.http_client import Array, Connection, Reply, connect, infer_request, read_answer
from serving.service import MODEL, Report, Subject, add_options, measure

_KINDS = {"good": 30, "malformed": 8, "no HTTP": 2, "gone half-way": 3, "gone before the answer": 3, "dripping": 2}
_KINDS |= {"oversized": 2}
"""Kinds of clients and their shares.

A good client sends 1 to `_ON_ONE_CONNECTION` requests of up to `_IMAGES_AT_ONCE` images.
"""
_ON_ONE_CONNECTION, _IMAGES_AT_ONCE, _DRIPS, _DRIP_SECONDS = 8, 3, 8, 0.1
_PATIENCE = 60.0
_SAMPLE_SECONDS = 2.0
_IMAGES = 64


@dataclass
class Soak:
    """A mix of clients, and its results.

    The object is sent to the load generator's process, runs in that process, and is sent back.

    Attributes:
        requests, seconds: no client connects again after this number of requests, or after this time.
        most_bytes: largest allowed body size of a request.
        most_images: largest number of images in a good request.
        images: [N,H,W,C], the images from which requests are made.
        expected: for each setting, the outputs float32[N, ...] that responses must equal bit for bit.
        sent: number of requests of each kind.
        answers: number of responses by kind and status. Status 0 means that a request got no response.
        refusals: number of refusals by status and message. Numbers in the messages are replaced with N.
        wrong, lost: number of wrong responses and number of missing responses, by description.
    """

    port: int
    requests: int
    seconds: float
    clients: int
    most_bytes: int
    most_images: int
    images: Array
    expected: dict[str, Array]
    sent: Counter[str] = field(default_factory=Counter)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    refusals: Counter[tuple[int, str]] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def ran(self) -> Soak:
        """Run the mix to its end, and return this object with its results."""
        bad = {"malformed": malformed(MODEL), "oversized": oversized(MODEL, self.most_bytes)}
        self._bad = bad | {"no HTTP": [(request, None) for request in no_http()]}
        asyncio.run(self._run())
        return self

    async def _run(self) -> None:
        end = time.monotonic() + self.seconds

        async def client(seed: int) -> None:
            chance = random.Random(seed)
            while time.monotonic() < end and self.sent.total() < self.requests:
                kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
                try:
                    connection = await connect(self.port)
                except OSError as error:
                    self.sent[kind] += 1
                    self.lost[f"{kind}: no connection ({error.strerror})"] += 1
                    continue
                await self._visit(connection, kind, chance)
                connection.hang_up()

        await asyncio.gather(*map(client, range(self.clients)))

    async def _visit(self, connection: Connection, kind: str, chance: random.Random) -> None:
        if kind in self._bad:
            request, status = chance.choice(self._bad[kind])
            reply = await self._reply(connection, kind, request)
            if status is not None:
                self._check_refusal(reply, status, f"{kind}: {request[:60]!r}")
            elif reply is not None and not 400 <= reply.status < 500:
                self.wrong[f"{kind}: {reply.status}"] += 1
        elif kind.startswith("gone"):
            self.sent[kind] += 1
            request = self._good(chance)[0]
            connection.writer.write(request if "answer" in kind else request[: chance.randrange(1, len(request))])
            await asyncio.sleep(chance.uniform(0, 0.01))
        else:
            for _ in range(chance.randint(1, _ON_ONE_CONNECTION) if kind == "good" else 1):
                if not await self._ask_well(connection, kind, chance):
                    return

    async def _ask_well(self, connection: Connection, kind: str, chance: random.Random) -> bool:
        """Send a good request. Return whether its status was 200, even if the outputs in the response were wrong."""
        request, setting, part = self._good(chance)
        if kind == "dripping":
            cuts = [0, *sorted(chance.sample(range(len(request)), _DRIPS))]
            for start, stop in pairwise(cuts):
                connection.writer.write(request[start:stop])
                await asyncio.sleep(_DRIP_SECONDS)
            request = request[cuts[-1] :]
        reply = await self._reply(connection, kind, request)
        if reply is None or reply.status != 200:
            self._check_refusal(reply, 503, kind)
            return False
        try:
            served, logits = read_answer(reply, part.stop - part.start)
        except ValueError:
            self.wrong[f"{kind}: an answer that is none of the protocol"] += 1
            return True
        if setting not in (None, served) or served not in self.expected:
            self.wrong[f"{kind}: served at '{served}' instead of {setting}"] += 1
        elif logits.tobytes() != self.expected[served][part].tobytes():
            self.wrong[f"{kind}: other bits at {served}"] += 1
        return True

    def _good(self, chance: random.Random) -> tuple[bytes, str | None, slice]:
        setting, count = chance.choice([None, *self.expected]), chance.randint(1, self.most_images)
        first = chance.randrange(len(self.images) - count + 1)
        part = slice(first, first + count)
        return infer_request(MODEL, self.images[part], setting), setting, part

    async def _reply(self, connection: Connection, kind: str, request: bytes) -> Reply | None:
        self.sent[kind] += 1
        try:
            reply = await asyncio.wait_for(connection.ask(request), _PATIENCE)
        except TimeoutError:
            reply = None
        self.answers[kind, 0 if reply is None else reply.status] += 1
        return reply

    def _check_refusal(self, reply: Reply | None, status: int, what: str) -> None:
        """Check that a refusal has a message and an allowed status.

        Allowed are the expected status and status 503, which means that the service is full. A response with status 503 must
        also have a Retry-After header.
        """
        if reply is None:
            self.lost[what] += 1
            return
        try:
            sentence = str(json.loads(reply.body)["error"])
        except (ValueError, KeyError, TypeError):
            sentence = ""
        self.refusals[reply.status, re.sub(r"\d[\d,]*", "N", sentence)[:100]] += 1
        if reply.status not in (status, 503) or not sentence:
            self.wrong[f"{what}: {reply.status} {sentence[:60]!r} instead of {status} and a sentence"] += 1
        elif reply.status == 503 and b"\r\nretry-after:" not in reply.head:
            self.wrong[f"{what}: 503 without Retry-After"] += 1


def soak(subject: Subject) -> Report:
    """Run the mix against the service, and measure the service's memory at regular intervals.

    `failed` in the report is true if any response was wrong or missing, or if images were left in the queue.
    """
    options, images = subject.options, subject.images[:_IMAGES]
    expected = {name: subject.engine(images, name) for name in options.profiles}
    most = min(_IMAGES_AT_ONCE, len(images), options.batch_size)
    mix = options.requests, options.seconds, options.clients, options.max_body << 20, most
    order = Soak(subject.service.port, *mix, images, expected)
    start, memory = time.monotonic(), list[int]()
    load = subject.generator.submit(order.ran)
    while not load.done():
        memory.append(sum(subject.service.memory().values()))
        wait([load], _SAMPLE_SECONDS)
    third = max(len(memory) // 3, 1)
    came, left = load.result(), subject.service.metric("vmoe_images_waiting")
    answers = {kind: [(status, n) for (of, status), n in sorted(came.answers.items()) if of == kind] for kind in came.sent}
    return {
        "seconds": time.monotonic() - start,
        "kinds": [{"kind": kind, "sent": sent, "answers": answers[kind]} for kind, sent in came.sent.items()],
        "refusals": [{"status": s, "sentence": text, "times": n} for (s, text), n in sorted(came.refusals.items())],
        "wrong": came.wrong,
        "lost": came.lost,
        "images_left": left,
        "memory": [float(np.median(memory[:third])), float(np.median(memory[-third:]))],
        "failed": bool(came.wrong or came.lost or left),
    }


def markdown(report: Report) -> str:
    """Return the report as Markdown. It contains tables of requests and refusals, and the memory measurements."""
    sent = sum(kind["sent"] for kind in report["kinds"])
    wrong, lost = (sum(report[what].values()) for what in ("wrong", "lost"))
    lines = [
        f"{sent:,} requests in {report['seconds']:.0f} s; wrong: {wrong}, lost: {lost}, in the queue at the end: "
        f"{report['images_left']:g}.",
        *(f"- {what}: {text} ({times})" for what in ("wrong", "lost") for text, times in report[what].items()),
        "",
    ]
    kinds = [
        kind | {"came": ", ".join(f"{status or 'hung up'}: {times}" for status, times in kind["answers"]) or "-"}
        for kind in report["kinds"]
    ]
    lines += [*table(["client", "requests", "answers"], [cells(kind, "kind sent came") for kind in kinds]), ""]
    rows = [cells(row, "status sentence times") for row in report["refusals"]]
    head = ["refusal", "sentence", "times"]
    first, last = report["memory"]
    grown = (
        f"Memory of its processes: {first / 1e6:,.1f} MB, median of the first third of the time, {last / 1e6:,.1f} MB of "
    )
    return "\n".join([*lines, *table(head, rows), "", f"{grown}the last ({last / first - 1:+.2%})."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with command-line arguments, and return its exit code.

    The exit code is 1 if the report says `failed` or the program couldn't run, and otherwise 0.
    """
    parser = argparse.ArgumentParser(description="Asks a service for long: good, bad and absent clients.")
    add_options(parser)
    parser.add_argument("--requests", type=count, default=100_000, metavar="N", help="after which it ends")
    parser.add_argument("--seconds", type=positive, default=3600.0, help="after which it ends, too")
    parser.add_argument("--clients", type=count, default=16, metavar="N", help="at once")
    report = measure(parser.parse_args(arguments), "soak", soak, markdown)
    return 1 if report is None or report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
