"""`Sequence`: a request on its way through an engine, with the blocks that it uses."""

from __future__ import annotations

from nebula_engine_sim.job import Job
from nebula_engine_sim.kv_cache import KvCache


class Sequence:
    """Prompt and answer of one request. `computed` of its tokens have their keys and values in the cache."""

    __slots__ = (
        *("aborted", "blocks", "cached", "chunk", "computed", "expected", "generated", "job", "private"),
        *("queued_s", "seen", "shared", "submitted"),
    )

    def __init__(self, job: Job, submitted: float, expected: int, block_size: int) -> None:
        self.job = job
        whole = job.prompt_tokens // block_size
        self.blocks = job.blocks + job.output_blocks if len(job.blocks) == whole else job.blocks[:whole]
        """Hashes of the blocks that prompt and answer fill, as far as they are known without a gap."""
        self.submitted = submitted
        self.queued_s: float | None = None
        """Seconds until it was first admitted; `None` before."""
        self.expected = expected
        """Tokens that it will probably find in the cache."""
        self.cached = 0
        """Prompt tokens found in the cache when it was first admitted."""
        self.computed = 0
        self.generated = 0
        self.chunk = 0
        """Prompt tokens that the step in progress computes; 0: it gets one more token."""
        self.shared: list[int] = []
        self.private = 0
        self.seen = 0
        """Blocks of `blocks` that are full: published, or known to be copies."""
        self.aborted = False

    @property
    def known(self) -> int:
        """Tokens there are: the prompt, and what has been generated."""
        return self.job.prompt_tokens + self.generated

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be computed for it."""
        return self.aborted or self.generated == self.job.output_tokens

    @property
    def decoding(self) -> bool:
        """Whether only its newest token is to be computed."""
        return self.generated > 0 and self.computed == self.known - 1

    def admit(self, cache: KvCache, block_size: int) -> bool:
        """Take all blocks that its tokens need, if they are to be had. At least one token is always computed: the next comes from it."""
        found = self.blocks[: cache.match(self.blocks[: (self.known - 1) // block_size])]
        more = -(-self.known // block_size) - len(found)
        if not cache.fits(found, more):
            return False
        cache.use(found)
        cache.allocate(more)
        self.shared, self.private, self.seen = list(found), more, len(found)
        self.computed = len(found) * block_size
        return True

    def growth(self, tokens: int, block_size: int) -> int:
        """Blocks to be had before so many more tokens are computed."""
        return -(-(self.computed + tokens) // block_size) - len(self.shared) - self.private

    def grow(self, count: int, cache: KvCache) -> None:
        """Take `count` more blocks."""
        cache.allocate(count)
        self.private += count

    def publish(self, tokens: int, cache: KvCache, block_size: int) -> None:
        """Make findable what `tokens` computed tokens fill."""
        full = min(tokens // block_size, len(self.blocks))
        for block in self.blocks[self.seen : full]:
            if cache.publish(block):
                self.shared.append(block)
                self.private -= 1
        self.seen = max(self.seen, full)

    def release(self, cache: KvCache) -> None:
        """Give up all blocks; what was computed has to be found again or computed again."""
        cache.release(self.shared, self.private)
        self.shared, self.private, self.seen, self.computed = [], 0, 0, 0
