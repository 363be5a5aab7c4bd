"""What the server measures of itself, for Prometheus; nothing of what anybody said."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        to = self._registry
        self.requests = Counter(
            "qf_requests", "Requests, by route and status.", ["route", "status"], registry=to
        )
        self.tokens = Counter("qf_tokens", "Tokens of replies.", registry=to)
        self.first = Histogram(
            "qf_first_token_seconds", "From request to first token.", buckets=_SECONDS, registry=to
        )
        self.learning = Histogram(
            "qf_learn_seconds", "From request to acknowledged fact.", buckets=_SECONDS, registry=to
        )
        self.facts = Counter("qf_facts", "Facts learned and forgotten.", ["action"], registry=to)
        self._load = Gauge(
            "qf_load", "Replies and facts that are on their way.", ["what"], registry=to
        )

    def watch(self, name: str, value: float) -> None:
        """Take what the engine tells."""
        if name == "tokens":
            self.tokens.inc(value)
        elif name == "first token":
            self.first.observe(value)

    def text(self, load: Callable[[], dict[str, int]]) -> bytes:
        """All of it in Prometheus' text format."""
        for what, number in load().items():
            self._load.labels(what).set(number)
        return generate_latest(self._registry)
