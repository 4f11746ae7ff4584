"""How long to wait before the next try, and when to stop trying."""

from __future__ import annotations

import time

from toolchain.values import dataclass

BUSY = (429, 500, 502, 503, 504)  # worth another try


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Up to `tries` tries; pauses begin at `first` seconds and double, with jitter.

    A server's own Retry-After holds instead, if it asks for at most `longest` seconds.
    """

    tries: int = 5
    first: float = 0.2
    longest: float = 60.0

    def again(self, attempt: int, retry_after: str = "") -> bool:
        """Wait, and say whether to try again after the `attempt`th try, counted from 1."""
        asked = _seconds(retry_after)
        if attempt >= self.tries or asked > self.longest:
            return False
        import random

        # Jitter, so that those who were refused together do not come back together.
        own = min(self.first * 2 ** (attempt - 1), self.longest) * random.uniform(0.5, 1)
        time.sleep(max(own, asked))
        return True


def _seconds(retry_after: str) -> float:
    """RFC 9110, section 10.2.3: seconds, or a date. 0 for what is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    if not retry_after:
        return 0.0
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
