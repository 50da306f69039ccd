"""`Speed`: how long prompts take, learned from the first tokens of all replicas of a model together."""

from __future__ import annotations

DECAY = 0.998
"""Each prompt weighs this much less with every later one: about the last five hundred count, for long prompts are rare."""
BASE_BYTES = 2_000.0
"""Before that, each one is taken to cost as much as so many bytes more."""
PRIOR_WEIGHT = 0.5
"""What is believed before the first answer weighs half a prompt."""
LINE_AFTER, CURVE_AFTER = 8, 32
"""After so many prompts it is told what every prompt costs, and what length adds."""
REFIT = 8
"""Then fitted anew with every so many: it hardly moves with one of hundreds."""
OUTLIER = 2.0
"""Prompts that took more than so many times longer or shorter than expected count as just that: they waited for something else."""
EVEN_BYTES = 4_000.0
"""Errors count beside a prompt's size, and those of all shorter prompts alike: else the few longest would decide alone."""
LEAST_SPREAD = 0.01
"""What a slope is taken from must vary by so much of its square: prompts of one length tell nothing about another."""
LEAST_SLOPE = 0.1
"""At least this share of the mean time is taken to grow with the bytes."""
LEAST_SLOPE_S = 1e-12
"""No engine computes a byte in less: keeps answers that cost no time from making work free."""
MOST_PER_PAIR = 1e-4
"""Bytes of effort for a pair: length doubles the cost of a byte each 10,000 bytes. The smallest models in use stay below that."""


class Speed:
    """A prompt takes `base_s + per_byte_s × (bytes + per_pair × pairs)`, for attention looks at each token together with all before it.

    One line for all replicas of a model: what few prompts show is mostly noise, and replicas are mostly alike. By how much one is slower,
    `Slowness` tells. What decoding adds is learned from what the line leaves unexplained.
    """

    __slots__ = (
        "_beside",
        "_count",
        "_decode",
        "_pairs",
        "_pairs2",
        "_pairs_time",
        "_prior",
        "_seen",
        "_time",
        "_work",
        "_work2",
        "_work_pairs",
        "_work_time",
        "base_s",
        "decoding",
        "each_s",
        "known",
        "mean_s",
        "per_byte_s",
        "per_pair",
    )

    def __init__(self, bytes_per_s: float, typical_bytes: float) -> None:
        self.base_s = 0.0
        """Seconds of every prompt."""
        self.per_byte_s = 1.0 / bytes_per_s
        self.per_pair = 0.0
        """Bytes of effort for each pair of bytes."""
        self.mean_s = typical_bytes / bytes_per_s
        """Of the prompts of late."""
        self.each_s = 0.0
        """Share by which each request that is decoded beside them slows prompts down, over that of `decoding` requests."""
        self._prior = (typical_bytes, self.mean_s)
        self._seen = 0
        self.known = False
        """Enough was seen to compare a replica with."""
        self.decoding = self._decode = self._beside = 0.0
        self._count = self._work = self._pairs = self._time = 0.0
        self._work2 = self._work_pairs = self._pairs2 = self._work_time = self._pairs_time = 0.0
        """Weighted sums of the prompts' terms, and of the products of two."""

    def takes_s(self, work: int, total: int) -> float:
        """Seconds for the last `work` bytes of a prompt of `total`."""
        return self.base_s + self.per_byte_s * work * (1.0 + self.per_pair * (total - 0.5 * work))

    def expected_s(self, work: float, pairs: float) -> float:
        """Seconds for so many bytes and pairs of bytes."""
        return self.base_s + self.per_byte_s * (work + self.per_pair * pairs)

    def beside(self, decoding: int) -> float:
        """By what factor prompts take longer than usual while so many requests are decoded beside them."""
        return max(0.5, 1.0 + self.each_s * (decoding - self.decoding))

    def learn(self, count: int, work: float, pairs: float, seconds: float, decoding: int) -> None:
        """So many prompts of a mean size were computed one after the other in `seconds` each, while `decoding` were decoded beside them."""
        expected = self.base_s + self.per_byte_s * (work + self.per_pair * pairs)  # as `expected_s`, for which a call would cost more
        if self._seen >= CURVE_AFTER:
            seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
        weight = count * (work + EVEN_BYTES) ** -2
        kept = DECAY**count
        extra = decoding - self.decoding
        self._decode = self._decode * kept + weight * expected * extra * (seconds - expected)
        self._beside = self._beside * kept + weight * expected * expected * extra * extra
        self.decoding += (1.0 - kept) * extra
        self._count = self._count * kept + weight
        self._work = self._work * kept + weight * work
        self._pairs = self._pairs * kept + weight * pairs
        self._time = self._time * kept + weight * seconds
        self._work2 = self._work2 * kept + weight * work * work
        self._work_pairs = self._work_pairs * kept + weight * work * pairs
        self._pairs2 = self._pairs2 * kept + weight * pairs * pairs
        self._work_time = self._work_time * kept + weight * work * seconds
        self._pairs_time = self._pairs_time * kept + weight * pairs * seconds
        self.mean_s += (seconds - self.mean_s) * max(1.0 - kept, 1 / (self._seen + 1 + PRIOR_WEIGHT))
        before, self._seen = self._seen, self._seen + count
        self.known = self._seen >= CURVE_AFTER
        if before < LINE_AFTER or before // REFIT != self._seen // REFIT:
            self._fit()

    def _fit(self) -> None:
        """Weighted least squares, by the normal equations, of as many terms as what was seen can tell apart."""
        if self._seen < LINE_AFTER:
            self._fit_speed()
            return
        self.each_s = min(max(0.0, self._decode / self._beside), 1.0) if self._beside > 0 else 0.0
        mean_w, mean_p, mean_t = self._work / self._count, self._pairs / self._count, self._time / self._count
        ww, wt = self._work2 - self._work * mean_w, self._work_time - self._work * mean_t
        through_origin = max(mean_t / max(mean_w, 1.0), LEAST_SLOPE_S)
        per_byte, per_pair = through_origin, 0.0
        if ww > LEAST_SPREAD * self._count * mean_w * mean_w:
            per_byte, per_pair = self._curve(ww, wt, mean_p) or (max(min(wt / ww, through_origin), LEAST_SLOPE * through_origin), 0.0)
        self.per_byte_s, self.per_pair = per_byte, per_pair
        self.base_s = max(0.0, mean_t - per_byte * (mean_w + per_pair * mean_p))

    def _fit_speed(self) -> None:
        """Until a line can be told, every prompt is taken to cost as much as some bytes more."""
        typical, took = self._prior
        weight = PRIOR_WEIGHT * (typical + EVEN_BYTES) ** -2
        time, work = self._time + weight * took, self._work + weight * typical
        self.per_byte_s = max(time / (work + BASE_BYTES * (self._count + weight)), LEAST_SLOPE_S)
        self.base_s = BASE_BYTES * self.per_byte_s

    def _curve(self, ww: float, wt: float, mean_p: float) -> tuple[float, float] | None:
        """Seconds per byte, and bytes for each pair, if what was seen tells one from the other."""
        pp, wp, pt = self._pairs2 - self._pairs * mean_p, self._work_pairs - self._work * mean_p, self._pairs_time - self._time * mean_p
        independent = ww * pp - wp * wp
        if self._seen < CURVE_AFTER or independent <= LEAST_SPREAD * ww * pp:
            return None
        per_byte, per_pair = (wt * pp - pt * wp) / independent, (pt * ww - wt * wp) / independent
        return (per_byte, min(per_pair / per_byte, MOST_PER_PAIR)) if per_byte > LEAST_SLOPE_S and per_pair > 0 else None
