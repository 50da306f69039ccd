"""`Curve`: by how much a prompt's length makes each of its bytes dearer, learned from all replicas of a model together."""

from __future__ import annotations

DECAY = 0.998
"""Each first token weighs this much less with every later one: about the last five hundred count, for long prompts are rare."""
TRUSTED = 32
"""Before so many first tokens, length is taken to cost nothing."""
REFIT = 8
"""Fitted anew with every so many: it hardly moves with one of hundreds."""
OUTLIER = 2.0
"""One that took more than so many times longer or shorter than expected counts as just that: it waited for something else."""
EVEN_BYTES = 4_000.0
"""Errors count beside a prompt's size, and those of all shorter prompts alike: else the few longest would decide alone."""
LEAST_SPREAD = 0.01
"""So much of what the pairs vary by must not follow from the bytes: prompts of one length tell nothing about another."""
MOST = 1e-4
"""Bytes of effort for a pair: length doubles the cost of a byte each 10,000 bytes. The smallest models in use stay below that."""


class Curve:
    """A prompt costs `fixed + a × bytes + b × pairs`, for attention looks at each token together with every one before it.

    `b / a` belongs to the model, whatever its replicas run on. With it, work is told as effort: bytes that cost `a` each.
    """

    __slots__ = (
        "_bytes",
        "_bytes2",
        "_bytes_pairs",
        "_bytes_time",
        "_count",
        "_line",
        "_pairs",
        "_pairs2",
        "_pairs_time",
        "_seen",
        "_time",
        "per_pair",
    )

    def __init__(self) -> None:
        self.per_pair = 0.0
        """`b / a`: bytes of effort for each pair of bytes."""
        self._seen = 0
        self._count = self._bytes = self._pairs = self._time = 0.0
        self._bytes2 = self._bytes_pairs = self._pairs2 = self._bytes_time = self._pairs_time = 0.0
        """Sums of the first tokens' terms, and of the products of two."""
        self._line: tuple[float, float, float] | None = None
        """Fixed seconds, seconds per byte and per pair, as they were fitted last."""

    def effort(self, work: int, total: int) -> float:
        """Of the last `work` bytes of a prompt of `total`."""
        return work + self.per_pair * work * (total - 0.5 * work)

    def learn(self, work: int, total: int, seconds: float) -> None:
        """The last `work` bytes of a prompt of `total` took `seconds`, and nobody was before them."""
        pairs = work * (total - 0.5 * work)
        if self._line is not None:
            fixed, per_byte, per_pair = self._line
            expected = fixed + per_byte * work + per_pair * pairs
            seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
        weight = (work + EVEN_BYTES) ** -2
        self._count = self._count * DECAY + weight
        self._bytes = self._bytes * DECAY + weight * work
        self._pairs = self._pairs * DECAY + weight * pairs
        self._time = self._time * DECAY + weight * seconds
        self._bytes2 = self._bytes2 * DECAY + weight * work * work
        self._bytes_pairs = self._bytes_pairs * DECAY + weight * work * pairs
        self._pairs2 = self._pairs2 * DECAY + weight * pairs * pairs
        self._bytes_time = self._bytes_time * DECAY + weight * work * seconds
        self._pairs_time = self._pairs_time * DECAY + weight * pairs * seconds
        self._seen += 1
        if self._seen >= TRUSTED and self._seen % REFIT == 0:
            self._fit()

    def _fit(self) -> None:
        """Weighted least squares of two regressors and an intercept, by the normal equations."""
        mean_b, mean_p, mean_t = self._bytes / self._count, self._pairs / self._count, self._time / self._count
        bb, pp = self._bytes2 - self._bytes * mean_b, self._pairs2 - self._pairs * mean_p
        bp, bt, pt = (
            self._bytes_pairs - self._bytes * mean_p,
            self._bytes_time - self._bytes * mean_t,
            self._pairs_time - self._pairs * mean_t,
        )
        independent = bb * pp - bp * bp
        if independent <= LEAST_SPREAD * bb * pp:
            return
        per_byte, per_pair = (bt * pp - pt * bp) / independent, (pt * bb - bt * bp) / independent
        if per_pair < 0:
            per_byte, per_pair = bt / bb, 0.0
        if per_byte <= 0:
            return
        self.per_pair = min(per_pair / per_byte, MOST)
        self._line = max(0.0, mean_t - per_byte * mean_b - per_pair * mean_p), per_byte, per_pair
