"""One thread that owns the model: it answers, step by step, and learns between two steps.

    jobs      whatever needs the model besides answering; of those that learn, one between two steps
    waiting   requests that are not answered yet, up to a bound
    batch     those that are: one pass gives each its next token

A learn therefore never delays a reply by more than itself, and a reply keeps the facts that it
began with (`qf.serve.batch`). What takes longer is to come as many jobs. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, TypeVar

from qf.generate import Generator
from qf.recall import Asked, Recall
from qf.serve.batch import Batch
from qf.serve.errors import LateError, OverloadError, StoppedError, TooManyError
from qf.serve.sampling import Sampler, Sampling, Token
from qf.serve.text import Transcript

ROWS = 32  # sequences that are answered together
WAITING = 128  # requests that wait for a place
JOBS = 64  # jobs that learn and wait
LOOKS = 1024  # and others
READ = 4096  # tokens of prompts that are read in one pass
BESIDE = 1024  # and while replies are under way, which wait for that pass
PATIENCE = 300.0  # seconds that a job which learns may wait

T = TypeVar("T")
Memories = Callable[[Sequence[str]], list[Recall]]
"""The facts that queries may call to mind, as of the moment that it is called."""


@dataclass(frozen=True)
class Piece:
    """What is new of a reply: text, its tokens, and at the end why it ended, or an error.

    The first one is empty: the prompt was read.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish: str | None = None
    error: Exception | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.finish is not None or self.error is not None


@dataclass(eq=False)
class Stream:
    """One reply: its prompt and how it is drawn; `pieces` gets it as it comes, with `index`."""

    index: int
    pieces: asyncio.Queue[tuple[int, Piece]]
    prompt: Callable[[], Asked]
    memories: Memories
    sampler: Sampler
    transcript: Transcript
    room: int  # tokens that it may have
    deadline: float  # on the monotonic clock
    endless: bool = False  # goes on where the model would end
    began: float = field(default_factory=time.monotonic)
    asked: Asked | None = None  # once it was its turn
    next: int = 0
    generated: int = 0
    unsaid: list[Token] = field(default_factory=list)  # whose text is not certain yet
    gone: bool = False  # nobody reads it any more

    def said(self) -> tuple[Token, ...]:
        """The tokens to report whose text has become certain."""
        first = len(self.transcript.starts) - len(self.unsaid)
        count = max(self.transcript.said - first, 0)
        said, self.unsaid = tuple(self.unsaid[:count]), self.unsaid[count:]
        return said


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    done: asyncio.Future[Any]
    deadline: float  # to have begun, on the monotonic clock


class Engine:
    """Answers and learns with one model, for any number of requests of one event loop.

    `watch` is told of what happens, by name, with a number: for metrics.
    """

    def __init__(
        self,
        generator: Generator,
        batch: Batch,
        *,
        rows: int = ROWS,
        waiting: int = WAITING,
        patience: float = PATIENCE,
        watch: Callable[[str, float], None] = lambda _name, _value: None,
    ) -> None:
        self._generator, self._batch, self._rows, self._bound = generator, batch, rows, waiting
        self._patience, self._watch = patience, watch
        self._streams: list[Stream] = []  # those in the batch, in its order
        self._waiting: deque[Stream] = deque()
        self._quick: deque[_Job] = deque()
        self._learning: deque[_Job] = deque()
        self._awake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._news: list[tuple[Stream, Piece]] = []

    def start(self) -> None:
        """Begin to work for the event loop that is running."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="qf-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take nothing new, and refuse what is to be learned and was not begun.

        Replies are finished, those that wait too. To be called in the event loop.
        """
        with self._awake:
            self._stopping = True
            refused = list(self._learning)
            self._learning.clear()
            self._awake.notify()
        for job in refused:
            if not job.done.done():
                job.done.set_exception(StoppedError())

    async def stop(self) -> None:
        """Close, and wait until all replies are finished."""
        self.close()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # For the event loop

    def answer(
        self,
        prompts: Sequence[Callable[[], Asked]],
        memories: Memories,
        sampling: Sampling,
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        trim: bool = True,
        endless: bool = False,
        timeout: float = 300.0,
    ) -> list[Stream]:
        """Queue replies to prompts, which are made when it is their turn.

        What making a prompt raises is the reply's error. Raises OverloadError, TooManyError or
        StoppedError. The i-th reply is drawn with the seed plus i.
        """
        streams: list[Stream] = []
        pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        deadline = time.monotonic() + timeout
        for i, prompt in enumerate(prompts):
            seed = None if sampling.seed is None else sampling.seed + i
            sampler = Sampler(replace(sampling, seed=seed))
            transcript = Transcript(self._generator.tokenizer, stop, trim)
            drawn = sampler, transcript, max_tokens, deadline, endless
            streams.append(Stream(i, pieces, prompt, memories, *drawn))
        with self._awake:
            self._check_open()
            if len(streams) > self._bound:
                raise TooManyError(len(streams), self._bound)
            if len(self._waiting) + len(streams) > self._bound:
                raise OverloadError("requests", retry_after=1 + len(self._waiting) // self._rows)
            self._waiting += streams
            self._awake.notify()
        return streams

    def leave(self, streams: Sequence[Stream]) -> None:
        """Give up replies that nobody reads any more; their places are free at the next step."""
        with self._awake:
            for stream in streams:
                stream.gone = True
            self._awake.notify()

    async def run(self, work: Callable[[], T], *, learns: bool = False) -> T:
        """Have the model's thread do `work` between two steps; one that learns waits its turn.

        Cancelled before its turn, it is not done. Raises what `work` does, OverloadError when too
        many learn, LateError when its turn does not come, or StoppedError.
        """
        deadline = time.monotonic() + self._patience if learns else inf
        job = _Job(work, self._loop.create_future(), deadline)
        with self._awake:
            self._check_open()
            jobs, most = (self._learning, JOBS) if learns else (self._quick, LOOKS)
            if len(jobs) >= most:
                raise OverloadError("facts to learn" if learns else "requests", retry_after=5)
            jobs.append(job)
            self._awake.notify()
        try:
            return await job.done
        except asyncio.CancelledError:
            with self._awake:
                if job in jobs:
                    jobs.remove(job)
            raise

    def tell(self, queue: asyncio.Queue[Any], item: Any) -> None:
        """Put something into a queue of the event loop, from the model's thread."""
        self._loop.call_soon_threadsafe(queue.put_nowait, item)

    def load(self) -> dict[str, int]:
        """How much is going on."""
        return {
            "running": len(self._streams),
            "waiting": len(self._waiting),
            "learning": len(self._learning),
        }

    def _check_open(self) -> None:
        if self._stopping or self._thread is None or not self._thread.is_alive():
            raise StoppedError

    # The thread

    def _work(self) -> None:
        while True:
            with self._awake:
                while not (self._quick or self._learning or self._waiting or self._streams):
                    if self._stopping:
                        return
                    self._awake.wait()
                jobs = [self._quick.popleft() for _ in range(len(self._quick))]
                if self._learning:
                    jobs.append(self._learning.popleft())
            for job in jobs:
                self._do(job)
            try:
                self._drop()
                self._admit()
                self._deliver()  # a first token does not wait for the second
                if self._streams:
                    self._step()
            except Exception as error:  # out of memory, perhaps: those in the batch are lost
                logging.getLogger("qf.serve").exception("A step failed")
                for stream in self._streams:
                    self._news.append((stream, Piece(error=error)))
                self._streams = []
                self._batch.keep([])
            self._deliver()

    def _do(self, job: _Job) -> None:
        if job.done.cancelled():
            return
        try:
            if time.monotonic() >= job.deadline:
                raise LateError("What was to be learned waited too long: try again later.")
            result, error = job.work(), None
        except BaseException as caught:
            result, error = None, caught

        def tell() -> None:
            if job.done.cancelled():
                return
            if error is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(error)

        self._loop.call_soon_threadsafe(tell)

    def _drop(self) -> None:
        """Let go of replies that nobody reads, and of those that took too long."""
        now = time.monotonic()
        with self._awake:
            waiting = list(self._waiting)
            self._waiting = deque(s for s in waiting if not s.gone and now < s.deadline)
        for stream in (*waiting, *self._streams):
            if not stream.gone and now >= stream.deadline:
                self._news.append((stream, Piece(error=LateError())))
        self._keep([s for s in self._streams if not s.gone and now < s.deadline])

    def _keep(self, streams: list[Stream]) -> None:
        if len(streams) < len(self._streams):
            left = set(map(id, streams))
            self._batch.keep([i for i, s in enumerate(self._streams) if id(s) in left])
            self._streams = streams

    def _admit(self) -> None:
        """Read the prompts of those that wait, as far as there is room; others a step later."""
        most = BESIDE if self._streams else READ
        new: list[Stream] = []
        asked: list[Asked] = []
        memories: list[list[Recall]] = []
        while self._waiting and len(self._streams) + len(new) < self._rows:
            stream = self._waiting[0]
            try:
                stream.asked = stream.asked or stream.prompt()
                longest = max(len(a.ids) for a in (*asked, stream.asked))
                if new and longest * (len(new) + 1) > most:
                    break
                recalls = stream.memories([stream.asked.query])
            except Exception as error:  # its own: the others are not concerned
                self._news.append((stream, Piece(error=error)))
            else:
                new.append(stream)
                asked.append(stream.asked)
                memories.append(recalls)
                stream.room = min(stream.room, self._generator.context - len(stream.asked.ids))
            with self._awake:
                self._waiting.popleft()
        if not new:
            return
        before = len(self._streams)
        try:
            logits = self._batch.join(asked, memories)
        except Exception as error:  # the batch is as it was
            logging.getLogger("qf.serve").exception("Prompts could not be read")
            self._news += [(s, Piece(error=error)) for s in new]
            return
        self._streams = [*self._streams, *new]
        for stream in new:
            self._news.append((stream, Piece()))
            self._watch("first token", time.monotonic() - stream.began)
        self._take(logits, before)

    def _step(self) -> None:
        logits = self._batch.step([s.next for s in self._streams])
        self._take(logits, 0)

    def _take(self, logits: Any, first: int) -> None:
        """Give the streams from the `first` on their next token, and let go of those at an end."""
        streams, ended = self._streams[first:], set()
        likeliest = logits.argmax(-1).tolist()
        self._watch("tokens", len(streams))
        for row, stream in enumerate(streams):
            plain = stream.sampler.plain
            token = Token(likeliest[row]) if plain else stream.sampler.token(logits[row])
            piece = self._piece(stream, token)
            if piece.text or piece.tokens or piece.last:
                self._news.append((stream, piece))
            if piece.last:
                ended.add(id(stream))
        if ended:
            self._keep([s for s in self._streams if id(s) not in ended])

    def _piece(self, stream: Stream, token: Token) -> Piece:
        stream.generated += 1
        stream.next = token.id
        if token.id in self._generator.eos_ids and not stream.endless:
            return Piece(stream.transcript.end(), stream.said(), finish="stop")
        text = stream.transcript.add(token.id)
        if token.logprob is not None:
            stream.unsaid.append(replace(token, start=stream.transcript.starts[-1]))
        if stream.transcript.stopped:
            return Piece(text, stream.said(), finish="stop")
        if stream.generated >= stream.room:
            return Piece(text + stream.transcript.end(), stream.said(), finish="length")
        return Piece(text, stream.said())

    def _deliver(self) -> None:
        news, self._news = self._news, []
        if not news:
            return

        def put() -> None:
            for stream, piece in news:
                stream.pieces.put_nowait((stream.index, piece))

        try:
            self._loop.call_soon_threadsafe(put)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self._stopping = True
