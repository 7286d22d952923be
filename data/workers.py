"""Blocks to tokenised documents on all cores, in source order, with few blocks in memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from data import documents, tokenizers
from data.documents import Documents, Request
from data.sources import Block

BLOCKS_PER_WORKER = 2  # one under way and one waiting: more cost memory, fewer leave cores idle

_worker: dict = {}  # of a worker process: what its calls have in common


def end_with_parent(parent: int, end: Callable[[], None]) -> None:
    """Call end when the parent is gone: a killed one would leave its processes for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        end()

    threading.Thread(target=watch, daemon=True).start()


def _start_worker(request: Request, folder: Path, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers
    end_with_parent(parent, lambda: os._exit(1))
    _worker.update(request=request, tokenizer=tokenizers.load(request.tokenizer, folder))


def _tokenize_in_worker(block: Block) -> Documents:
    return documents.tokenize(block, _worker["tokenizer"], _worker["request"])


def _do_nothing() -> None:
    """A first call starts the workers."""


@contextlib.contextmanager
def worker_pool(request: Request, folder: Path, workers: int) -> Iterator[Callable]:
    """Give a map from blocks to Documents, in order, with few blocks under way at a time.

    The tokenizer's file lies in the folder.

    Raises: OSError where a worker was killed.
    """
    if workers == 1:
        tokenizer = tokenizers.load(request.tokenizer, folder)
        yield lambda blocks: (documents.tokenize(block, tokenizer, request) for block in blocks)
        return
    pool = ProcessPoolExecutor(
        workers,
        # Forked before anything starts threads; what was imported is then shared memory.
        multiprocessing.get_context("fork"),
        initializer=_start_worker,
        initargs=(request, folder, os.getpid()),
    )

    def in_order(blocks: Iterable[Block]) -> Iterator[Documents]:
        pending: deque = deque()
        for block in blocks:
            pending.append(pool.submit(_tokenize_in_worker, block))
            if len(pending) > BLOCKS_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        pool.submit(_do_nothing).result()
        yield in_order
    except BrokenProcessPool:
        message = "a worker was killed, most likely because memory ran out"
        raise OSError(f"{message}; give the same command again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)
