"""The notifications of one environment in Redis or Valkey."""

from __future__ import annotations

from typing import Any

import redis

from pytest_plan.sharing.model import Kind, News
from pytest_plan.sharing.stores.calls import Calls, Silence

_LONGEST_CALL = 5.0  # seconds until the server confirms a subscription


class RedisListener:
    """The notifications of one environment; see `protocol.Listener`.

    Raises:
        redis.RedisError: the server cannot be reached.
    """

    def __init__(self, client: redis.Redis, channel: str, calls: Calls) -> None:
        self._client = client
        self._channel = channel
        self._silence = Silence(calls)
        self._pubsub: Any = self._subscribe()

    def wait(self, timeout: float) -> News | None:
        """Wait for notifications; see `Listener.wait`."""
        try:
            if self._pubsub is None:
                self._pubsub = self._subscribe()
                self._silence.end()
                return News(is_everything=True)
            return self._received(timeout)
        except redis.RedisError as error:
            self.close()
            self._silence.bear(error, timeout)
            return None

    def _received(self, timeout: float) -> News | None:
        """Return what a message and those that have arrived after it say."""
        keys = set()
        message = self._pubsub.get_message(timeout=timeout)
        while message is not None:
            if message["type"] == "subscribe":  # the library has connected again
                return News(is_everything=True)
            if message["type"] == "message":
                kind, _, key = message["data"].partition(":")
                keys.add((Kind(kind), key))
            message = self._pubsub.get_message(timeout=0)
        return News(frozenset(keys)) if keys else None

    def close(self) -> None:
        """Close the connection."""
        if self._pubsub is not None:
            self._pubsub.close()
            self._pubsub = None

    def _subscribe(self) -> Any:
        pubsub: Any = self._client.pubsub()  # type: ignore[no-untyped-call]
        try:
            pubsub.subscribe(self._channel)
            if pubsub.get_message(timeout=_LONGEST_CALL) is None:
                raise redis.TimeoutError("the server has not confirmed a subscription")
        except BaseException:
            pubsub.close()
            raise
        return pubsub
