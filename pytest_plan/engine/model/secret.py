"""Secrets, and the masker that removes them from output.

A `Secret` never shows its value. A `Masker` replaces the values of known secrets in text.
"""

from __future__ import annotations

import contextvars
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MASK = "***"
KEY_VARIABLE = "PYTEST_PLAN_KEY"  # holds the key of journals, which no program inherits
_SHORTEST = 4  # masking shorter text would turn ordinary output into asterisks
_MOST_VALUES = 100_000  # how many values inside a container are searched for secrets
_MOST_CUTS = 50  # how many ellipses of a text are searched for the parts of secrets around them
_MOST_LINES = 200  # of longer secrets, the single lines are masked only as they are
_WIDTHS = (64, 76)  # the columns at which openssl and base64 wrap
_PLAIN: frozenset[type] = frozenset((str, bytes, int, float, complex, type(None), type))
_CONTAINERS = (list, tuple, set, frozenset, deque)
_CUT = re.compile(r"\.\.\.|\N{HORIZONTAL ELLIPSIS}")
# What URL encoders leave as it is: Python's, and JavaScript's encodeURIComponent and encodeURI.
_SAFE = ("", "/", "!*'()", "!*'();/?:@&=+$,#")

# The masker of the run whose hook is running in the current thread (or asyncio task).
current_masker: contextvars.ContextVar[Masker | None] = contextvars.ContextVar(
    "pytest_plan_masker", default=None
)


class Secret(Generic[T]):
    """A value that is always shown as `***` and never written to the journal.

    The step's fixture and `reveal()` return the value itself. Text that contains the value is
    masked in the output, from the moment that a hook creates the secret or that it is put into the
    State, alone or inside a container.

    Args:
        value: the value to hide. Text and bytes, also inside a container, and integers are masked
            in each usual spelling if they have at least 4 characters. Of a text with several lines
            each line is masked, too.

    Raises:
        ValueError: the value is text or bytes of 1 to 3 characters, which cannot be masked.
    """

    __module__ = "pytest_plan"
    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        if isinstance(value, (str, bytes, bytearray)) and 0 < len(value) < _SHORTEST:
            raise ValueError(
                f"a secret of fewer than {_SHORTEST} characters cannot be masked, because ordinary "
                "output contains such text as well; use a longer value"
            )
        self._value = value
        self._make_known()

    def reveal(self) -> T:
        """Return the value."""
        self._make_known()
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> tuple[type[Secret[T]], tuple[T]]:
        return Secret, (self._value,)

    def _make_known(self) -> None:
        masker = current_masker.get()
        if masker is not None:
            masker.learn_text(texts_in(self._value))


def reveal(value: object) -> object:
    """Return the value inside a `Secret`; return any other value unchanged."""
    return value.reveal() if isinstance(value, Secret) else value


def secret_texts(value: object) -> list[str]:
    """Return the texts of all secrets that a value is or contains."""
    if _is_plain(value):
        return []
    found = (inner._value for inner in _values_in(value) if isinstance(inner, Secret))
    return list(dict.fromkeys(text for hidden in found for text in texts_in(hidden)))


def _is_plain(value: Any) -> bool:
    """Return whether a value, as most, is plain or a container of nothing but plain values."""
    kind = type(value)
    inner = (*value, *value.values()) if kind is dict else value
    return kind in _PLAIN or (kind in (dict, *_CONTAINERS) and _PLAIN.issuperset(map(type, inner)))


def texts_in(value: object) -> Iterator[str]:
    """Yield the texts in the value of a secret: itself, or those inside a container."""
    for inner in _values_in(value):
        if isinstance(inner, str):
            yield inner
        elif isinstance(inner, (bytes, bytearray, memoryview)):
            yield bytes(inner).decode("utf-8", "surrogateescape")
        elif isinstance(inner, int) and not isinstance(inner, bool):
            yield str(inner)
        elif isinstance(inner, Secret):
            yield from texts_in(inner._value)


class Masker:
    """Replaces known secrets in text.

    It needs no lock: any thread, a signal handler too, may call each of its methods.
    """

    def __init__(self) -> None:
        self._known: dict[str, None] = {}  # grows by single updates, which are atomic
        self._forms: tuple[str, ...] = ()
        self._texts: set[str] = set()
        # The forms of which only a part is masked: how much before and after it stays visible.
        self._frames: dict[str, tuple[int, int]] = {}
        # Called with the texts of each secret that is made known, also of one that is known.
        self.on_learn: Callable[[Collection[str]], None] | None = None

    @property
    def texts(self) -> Collection[str]:
        """The known secrets, each in the spelling in which it was made known."""
        return (*self._texts, *self._frames)

    @property
    def forms(self) -> tuple[str, ...]:
        """Every spelling of every known secret. Later secrets add spellings at the end."""
        if len(self._forms) != len(self._known):
            self._forms = tuple(self._known)
        return self._forms

    def learn(self, value: object) -> None:
        """Mask the secrets that `value` is or contains from now on."""
        self.learn_text(secret_texts(value))

    def learn_text(self, texts: Iterable[str]) -> None:
        """Mask texts from now on, in each of their spellings."""
        found = [text for text in texts if len(text) >= _SHORTEST]
        for text in found:
            if text not in self._texts:
                self._known.update(dict.fromkeys(_forms(text)))
                self._texts.add(text)
        if found and self.on_learn is not None:
            self.on_learn(found)

    def learn_between(self, before: str, text: str, after: str) -> None:
        """Mask a text from now on only where it stands between two others, which stay visible.

        In other spellings than this one, such as base64, the three texts are masked together.
        """
        whole = f"{before}{text}{after}"
        self._frames[whole] = len(before), len(after)
        self._known.update(dict.fromkeys([whole, *_forms(whole)]))
        if self.on_learn is not None:
            self.on_learn([whole])

    def mask(self, text: str) -> str:
        """Return `text` with every known secret replaced by `***`."""
        return self.mask_some(text, len(text))[0]

    def mask_some(self, text: str, most: int) -> tuple[str, int]:
        """Mask the beginning of `text`; return it and where it ends.

        It has at most `most` characters. It ends earlier if it would end inside a secret.
        """
        spans = list(_spans(text, forms)) if (forms := self.forms) else []
        parts, at = [], 0
        end = next((min(start, most) for start, stop in _merged(spans) if stop > most), most)
        for start, stop in _merged(self._hidden(text, span) for span in spans):
            if stop > end:
                break
            parts += [text[at:start], MASK]
            at = stop
        parts.append(text[at:end])
        return "".join(parts), max(at, end)

    def _hidden(self, text: str, span: tuple[int, int]) -> tuple[int, int]:
        """Return the part of a span that is masked."""
        start, stop = span
        before, after = self._frames.get(text[start:stop], (0, 0)) if self._frames else (0, 0)
        return start + before, stop - after

    def begun(self, text: str) -> int:
        """Return where the beginning of a secret starts with which `text` ends; else its length."""
        return min((_begun(text, len(text), form) for form in self.forms), default=len(text))


def _values_in(value: object) -> Iterator[object]:
    """Yield a value and the values inside it, but not those inside of secrets.

    This runs no code of the values. It ends after 100,000 values.
    """
    due: deque[object] = deque([value])
    seen: set[int] = set()
    left = _MOST_VALUES
    while due:
        inner = due.popleft()
        yield inner
        if not isinstance(inner, (*_PLAIN, Secret)) and id(inner) not in seen:
            seen.add(id(inner))
            more = _inside(inner)[:left]
            left -= len(more)
            due.extend(more)


def _inside(value: object) -> Sequence[object]:
    if isinstance(value, dict):
        return [*dict.keys(value), *dict.values(value)]
    if isinstance(value, _CONTAINERS):
        return tuple(value)
    fields: Iterable[str] | None = getattr(type(value), "__dataclass_fields__", None)
    if fields is not None:  # a dataclass
        return [_attribute(value, name) for name in fields]
    # Another object may lead to all objects of the process, so only its own containers count.
    attributes = _attribute(value, "__dict__")
    found = list(attributes.values()) if isinstance(attributes, dict) else []
    if isinstance(value, BaseException):
        found += value.args
    return [one for one in found if isinstance(one, (Secret, str, bytes, dict, *_CONTAINERS))]


def _attribute(value: object, name: str) -> object:
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return None


def _spans(text: str, forms: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield where secrets are in a text, and where a part is that a shortened text has kept."""
    for form in forms:
        start = text.find(form)
        while start >= 0:
            yield start, start + len(form)
            start = text.find(form, start + 1)
    for cut in itertools.islice(_CUT.finditer(text), _MOST_CUTS):
        for form in forms:
            if (start := _begun(text, cut.start(), form)) < cut.start():
                yield start, cut.start()
            if (stop := _left_of(text, cut.end(), form)) > cut.end():
                yield cut.end(), stop


def _begun(text: str, end: int, form: str) -> int:
    """Return where the beginning of `form` starts that ends at `end`; `end` if there is none."""
    head = form[:_SHORTEST]
    start = text.find(head, max(0, end - len(form) + 1), end)
    while start >= 0:
        if form.startswith(text[start:end]):
            return start
        start = text.find(head, start + 1, end)
    return end


def _left_of(text: str, begin: int, form: str) -> int:
    """Return where the end of `form` ends that starts at `begin`; `begin` if there is none."""
    tail = form[-_SHORTEST:]
    start = text.rfind(tail, begin, begin + len(form) - 1)
    while start >= 0:
        if form.endswith(text[begin : start + _SHORTEST]):
            return start + _SHORTEST
        start = text.rfind(tail, begin, start + _SHORTEST - 1)
    return begin


def _merged(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join spans that overlap; yield the results in order."""
    at, end = 0, 0
    for start, stop in sorted(spans):
        if start >= end:
            if end:
                yield at, end
            at = start
        end = max(end, stop)
    if end:
        yield at, end


def _forms(text: str) -> dict[str, None]:
    """Return the spellings of a secret text, and of each of its lines."""
    forms = _spellings(text)
    lines = [line for line in text.splitlines() if line.strip() and not _is_frame(line)]
    if len(lines) > 1 or "\n" in text:
        forms[text.replace("\n", "\r\n")] = None
        lines = [line.strip() if len(line.strip()) >= _SHORTEST else line for line in lines]
        for line in lines:
            forms |= _spellings(line) if len(lines) <= _MOST_LINES else {line: None}
    return {form: None for form in forms if len(form) >= _SHORTEST}


def _is_frame(line: str) -> bool:
    return re.fullmatch(r"\s*-----(BEGIN|END) .*-----\s*", line) is not None


def _spellings(text: str) -> dict[str, None]:
    raw = _encoded(text)
    plain = [text, raw.decode("utf-8", "surrogateescape"), raw.decode("utf-8", "replace")]
    plain.append(text.encode("ascii", "backslashreplace").decode())
    if plain[2].strip("\N{REPLACEMENT CHARACTER}") == "":
        del plain[2]
    quoted = dict.fromkeys((*plain, *_quoted(text), *_shell(text), *_bytes(raw), *_markup(text)))
    # A command line with JSON in it, or the repr of an error that shows a command line.
    twice = [again for form in quoted for again in (*_quoted(form), *_shell(form))]
    found = [*quoted, *twice, *_url(raw), *_base64(raw), raw.hex(), raw.hex().upper()]
    found += [" ".join(form.split()) for form in found]  # as in an error on one line
    return {form: None for form in found if len(form) >= _SHORTEST}


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # another lone surrogate
        return text.encode("utf-8", "surrogatepass")


def _quoted(text: str) -> Iterator[str]:
    """Yield a text as JSON and Python literals contain it."""
    for ascii_only in (True, False):
        form = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield from (form, form.replace("/", "\\/"))
        yield re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", form)
    for show in (repr, ascii):
        form = show(text + "'\"")[1:-4]  # with both kinds of quotes, `'` has a backslash
        yield from (form, form.replace("\\'", "'"), form.replace("\\'", "'").replace('"', '\\"'))


def _bytes(raw: bytes) -> Iterator[str]:
    form = "".join(
        {9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\"}.get(byte)
        or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}")
        for byte in raw
    )
    yield from (form, form.replace("'", "\\'"))


def _shell(text: str) -> Iterator[str]:
    yield text.replace("'", "'\"'\"'")
    yield text.replace("'", "'\\''")
    yield re.sub(r'([\\"])', r"\\\1", text)
    yield re.sub(r'([\\"$`])', r"\\\1", text)
    yield re.sub(r'([\\"$`!])', r"\\\1", text)
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", text, flags=re.ASCII)


def _url(raw: bytes) -> Iterator[str]:
    import urllib.parse  # imported late because few runs have secrets

    for safe in _SAFE:
        for quote in (urllib.parse.quote, urllib.parse.quote_plus):
            form = quote(raw, safe=safe)
            yield form
            yield re.sub("%..", lambda found: found[0].lower(), form)


def _markup(text: str) -> Iterator[str]:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for quote in ("&#x27;", "&#39;", "&apos;", "'"):
        for double in ("&quot;", "&#34;", '"'):
            form = text.replace("'", quote).replace('"', double)
            yield form
            yield form.replace("\n", "&#10;")
            yield form.encode("ascii", "xmlcharrefreplace").decode()


def _base64(raw: bytes) -> Iterator[str]:
    """Yield the base64 text, and the part of it that does not depend on what is around it."""
    import base64  # as above

    for offset, skipped in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(bytes(offset) + raw).decode()
        whole = encoded[skipped:]
        inner = encoded[skipped : (offset + len(raw)) * 8 // 6]
        for form in (whole, whole.rstrip("="), inner):
            yield from (form, form.replace("+", "-").replace("/", "_"))
    whole = base64.b64encode(raw).decode()
    for width in _WIDTHS:
        if len(whole) > width:
            yield from (whole[at : at + width] for at in range(0, len(whole), width))
