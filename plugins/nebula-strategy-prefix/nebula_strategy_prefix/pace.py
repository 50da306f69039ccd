"""`Pace`: how long a replica takes to compute a prompt, learned from the first tokens it sent."""

from __future__ import annotations

DECAY = 0.98
"""Each first token weighs this much less with every later one: about the last fifty count."""
PRIOR_WEIGHT = 0.5
"""What is believed before the first one weighs half a first token."""
TRUSTED = 8
"""After so many first tokens what they say is believed; before, all time is taken to grow with the work."""
REFIT = 4
"""From then on the line is fitted anew with every so many: it hardly moves with one of fifty, and fitting is half the cost of learning."""
EVEN_BYTES = 4_000.0
"""Errors count beside a prompt's size, and those of all shorter prompts alike: else the few longest would decide alone."""
OUTLIER = 10.0
"""Then one that took more than so many times longer or shorter than expected counts as just that."""
LEAST_SPREAD = 0.01
"""Requests whose work hardly differs tell nothing about a slope; this is the variance over the square of the mean."""
LEAST_SLOPE = 0.25
"""At least this share of the mean time is taken to grow with the work."""
LEAST_SLOPE_S = 1e-12
"""No engine computes a byte in less: keeps answers that cost no time from making work free."""


class Pace:
    """Seconds for a prompt = `base_s` + effort × `per_byte_s`, the second a little more for each request being decoded.

    A straight line through what was seen of late: its slope tells the speed, its foot what every request costs. What decoding adds is
    learned from what the line leaves unexplained, and is nothing until it shows.
    """

    __slots__ = (
        "_beside",
        "_count",
        "_decode",
        "_decodes",
        "_mean_work",
        "_prior",
        "_seen",
        "_time",
        "_work",
        "_work_time",
        "_work_work",
        "base_s",
        "mean_s",
        "per_byte_s",
        "slope_s",
        "trusted",
        "typical_bytes",
    )

    def __init__(self, bytes_per_s: float, typical_bytes: float) -> None:
        self._prior = (typical_bytes, typical_bytes / bytes_per_s)
        self._seen = 0
        self.trusted = False
        """What it learned is believed."""
        self._count = self._work = self._time = self._work_work = self._work_time = 0.0
        """The sums that the line is fitted to."""
        self._decodes = 0.0
        """Mean number of requests being decoded beside a prompt."""
        self._decode = self._beside = 0.0
        self.typical_bytes, self.mean_s = self._prior
        self._mean_work = self.typical_bytes
        """Mean uncached bytes of a request, and the mean time that it took."""
        self.base_s = 0.0
        self.slope_s = self.per_byte_s = 1.0 / bytes_per_s

    @property
    def bytes_per_s(self) -> float:
        """Speed without what every request costs."""
        return 1.0 / self.slope_s

    def decoding(self, count: int) -> None:
        """So many requests are being decoded now."""
        slope = self.slope_s
        if self._decode <= 0:
            self.per_byte_s = slope
            return
        extra = self._decode / (self._beside + self.typical_bytes * self.typical_bytes + 1.0)
        self.per_byte_s = max(slope / 2, slope + min(extra, slope) * (count - self._decodes))

    def learn(self, work: float, seconds: float, decoding: int) -> None:
        """A prompt of the effort `work` took `seconds` once its turn had come, beside `decoding` others."""
        expected = self.base_s + work * self.slope_s
        if self._seen >= TRUSTED:
            seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
        beside = work * (decoding - self._decodes)
        self._decode = self._decode * DECAY + (seconds - expected) * beside
        self._beside = self._beside * DECAY + beside * beside
        self._decodes += (decoding - self._decodes) * (1 - DECAY)
        self._mean_work += (work - self._mean_work) * max(1 - DECAY, 1 / (self._seen + 1 + PRIOR_WEIGHT))
        weight = (EVEN_BYTES / (work + EVEN_BYTES)) ** 2
        self._count = self._count * DECAY + weight
        self._work = self._work * DECAY + weight * work
        self._time = self._time * DECAY + weight * seconds
        self._work_work = self._work_work * DECAY + weight * work * work
        self._work_time = self._work_time * DECAY + weight * work * seconds
        self._seen += 1
        self.trusted = self._seen >= TRUSTED
        if self._seen <= TRUSTED or self._seen % REFIT == 0:
            self._fit()

    def _fit(self) -> None:
        prior_w, prior_t = self._prior
        weight = 0.0 if self._seen >= TRUSTED else PRIOR_WEIGHT * (EVEN_BYTES / (prior_w + EVEN_BYTES)) ** 2
        count = self._count + weight
        mean_w, mean_t = (self._work + weight * prior_w) / count, (self._time + weight * prior_t) / count
        slope = through_origin = mean_t / max(mean_w, 1.0)
        spread = self._work_work / count - mean_w * mean_w
        if not weight and spread > LEAST_SPREAD * mean_w * mean_w:
            slope = (self._work_time / count - mean_w * mean_t) / spread
        self.slope_s = max(min(slope, through_origin), LEAST_SLOPE * through_origin, LEAST_SLOPE_S)
        self.base_s = max(0.0, mean_t - self.slope_s * mean_w)
        self.typical_bytes, self.mean_s = self._mean_work, self.base_s + self.slope_s * self._mean_work
