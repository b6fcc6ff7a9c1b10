"""The sessions of all browser tabs; one that is idle for long expires."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence

from ..io.errors import StateError
from .images import Limits, StoredImage
from .searcher import Searcher
from .session import NotOpen, Session

MAX_SESSIONS = 32
EXPIRY_SECONDS = 3600  # of being idle
CROWDED_SECONDS = 600  # of being idle, where a new session would be one too many


class TooManySessions(StateError):
    """All sessions are in use."""


class Sessions:
    """Makes sessions and finds them by their tokens, which cannot be guessed.

    Args:
        searcher: the network.
        threshold: that new categories start with.
        images: files that each session starts with.
        clock: seconds since some time.
    """

    def __init__(
        self,
        searcher: Searcher,
        *,
        threshold: float,
        limits: Limits | None = None,
        images: Sequence[StoredImage] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.searcher, self.threshold, self.limits = searcher, threshold, limits or Limits()
        self.images, self._clock = images, clock
        self._sessions: dict[str, tuple[Session, float]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def create(self) -> str:
        """Begin a session and return its token; TooManySessions if all are in use."""
        with self._lock:
            self._expire(EXPIRY_SECONDS)
            if len(self._sessions) >= MAX_SESSIONS:
                self._expire(CROWDED_SECONDS)
            if len(self._sessions) >= MAX_SESSIONS:
                raise TooManySessions(f"all {MAX_SESSIONS} sessions are in use; try again later")
            session = Session(self.searcher, threshold=self.threshold, limits=self.limits, images=self.images)
            token = secrets.token_urlsafe(16)
            self._sessions[token] = session, self._clock()
            return token

    def get(self, token: str) -> Session:
        """The session with this token; NotOpen if it expired."""
        with self._lock:
            self._expire(EXPIRY_SECONDS)
            if token not in self._sessions:
                raise NotOpen("this session has expired; reload the page to begin a new one")
            session, _ = self._sessions[token]
            self._sessions[token] = session, self._clock()
            return session

    def close(self) -> None:
        """End all sessions and remove their uploads."""
        with self._lock:
            for session, _ in self._sessions.values():
                session.close()
            self._sessions.clear()

    def _expire(self, seconds: float) -> None:
        oldest = self._clock() - seconds
        for token in [token for token, (_, used) in self._sessions.items() if used < oldest]:
            session, _ = self._sessions.pop(token)
            session.close()
