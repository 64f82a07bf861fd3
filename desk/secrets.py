"""Looks for secrets in what is about to be sent to Kaggle, where it may be public, today or by a later click.

Two kinds are found: the secrets of this desk (Kaggle's credentials wherever the client would read them, and what the
environment calls a token, key or password), in several spellings; and whatever looks like a token of a known service.
"""

import base64
import binascii
import json
import os
import pathlib
import re
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Mapping

from desk.errors import ConfigurationError
from desk.kaggle.credentials import credential_files
from desk.records import read_object, read_text
from salt.limits import MOST_PACKED_TEXT

SHORTEST = 12  # characters of a secret that is looked for: shorter ones stand in any text by chance
BLOCK = 1 << 22  # bytes of a file that are looked at together
NAMED_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|KAGGLE_KEY|PRIVATE_?KEY", re.IGNORECASE)
KAGGLE_FIELDS = ("key", "access_token", "refresh_token", "token")

# What tokens of these services look like, by their own documentation.
TOKENS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "an OpenAI key": r"\bsk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[A-Za-z0-9_-]{32,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})\b",
    "an AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Weights & Biases key": r"(?i:wandb)[^\n]{0,60}?\b(?:[0-9a-f]{40}|wandb_v1_[A-Za-z0-9_]{40,})\b",
    "a Kaggle key": r"\bKGAT_[0-9a-f]{32}\b|(?:KAGGLE_KEY|[\"']username[\"'].{1,60}[\"']key)\W{1,12}[0-9a-f]{32}\b",
}
LITERAL = re.compile(r"[\"']([^\"'\\\s]{40,})[\"']")  # a text that may hold packed bytes


def own_secrets(
    used: Iterable[str] = (), environ: Mapping[str, str] | None = None, home: pathlib.Path | None = None
) -> dict[str, str]:
    """The secrets of this desk: {secret: where it was found}.

    Args:
        used: those with which this process has signed in.
        environ: None: this process's.
        home: None: the user's.
    """
    environ = os.environ if environ is None else environ
    home = pathlib.Path.home() if home is None else home
    found = dict.fromkeys(used, "the credentials in use")
    found |= {
        value: f"the variable {name}"
        for name, value in environ.items()
        if NAMED_SECRET.search(name) and not os.path.exists(value)  # the path of a file, which is no secret
    }
    for path in credential_files(environ, home):
        for secret in file_secrets(path):
            found[secret] = str(path).replace(str(home), "~", 1)
    return {secret.strip(): where for secret, where in found.items() if len(secret.strip()) >= SHORTEST}


def file_secrets(path: pathlib.Path) -> list[str]:
    """The secrets in a file of credentials; none where it cannot be read, whatever the reason: then no client can."""
    text = read_text(path).strip()
    if fields := read_object(path):
        return [fields[name] for name in KAGGLE_FIELDS if isinstance(fields.get(name), str)]
    return [text] if len(text.split()) == 1 else []


def spellings(secret: str) -> set[str]:
    """How a secret may stand in a text: as it is, escaped as in a program, JSON or an address, or inside of base64."""
    data = secret.encode()
    found = {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], json.dumps(json.dumps(secret)[1:-1])[1:-1]}
    found |= {urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret)}
    for before in range(3):  # base64 depends on how many bytes stand before; the ends depend on what does
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + data).decode().rstrip("=")
            found.add(text[4 if before else 0 : len(text) - len(text) % 4])
    return {text for text in found if len(text) >= SHORTEST}


def find_secrets(text: str, secrets: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """(line, what it holds) of each line of a text that holds a secret, also in a packed literal.

    Args:
        text: any.
        secrets: of `own_secrets`.
    """
    known = {spelling: where for secret, where in secrets.items() for spelling in spellings(secret)}

    def what(text: str) -> str | None:
        for spelling, where in known.items():
            if spelling in text:
                return f"the secret of {where}"
        return next((name for name, pattern in TOKENS.items() if re.search(pattern, text)), None)

    for number, line in enumerate(text.splitlines(), 1):
        found = what(line)
        if found is None:
            packed = (unpacked for literal in LITERAL.findall(line) for unpacked in unpack(literal))
            found = next((f"in packed data, {name}" for name in map(what, packed) if name), None)
        if found is not None:
            yield number, found


def unpack(literal: str) -> Iterator[str]:
    """The texts that a literal may stand for: base64 or base85, compressed or not."""
    for decode in (base64.b85decode, base64.b64decode):
        try:
            data = decode(literal)
        except (ValueError, binascii.Error):
            continue
        yield data.decode(errors="replace")
        for window in (zlib.MAX_WBITS, zlib.MAX_WBITS | 16):  # zlib's own head, gzip's
            try:
                yield zlib.decompressobj(window).decompress(data, MOST_PACKED_TEXT).decode(errors="replace")
            except zlib.error:
                continue


def refuse_secrets(texts: Mapping[str, str], secrets: Mapping[str, str]) -> None:
    """Looks through all that is about to be sent.

    Args:
        texts: {what it is: its text}; a notebook's cells are looked through one by one.
        secrets: of `own_secrets`.

    Raises:
        ConfigurationError: names each place.
    """
    places = [
        f"{name}, line {line}: {what}"
        for whole, content in texts.items()
        for name, text in parts(whole, content)
        for line, what in find_secrets(text, secrets)
    ]
    if places:
        shown = "\n  ".join(places[:10])
        raise ConfigurationError(
            f"secrets would leave this desk, and nothing was sent:\n  {shown}\nTake them out of the source, and make "
            "new ones if they were public before. On Kaggle, add them under Add-ons, Secrets, and read them there by "
            'kaggle_secrets.UserSecretsClient().get_secret("NAME")'
        )


def parts(name: str, content: str) -> Iterable[tuple[str, str]]:
    """(name, text) of a text, or of each cell if it is a notebook."""
    try:
        cells = json.loads(content)["cells"]
        return [(f"{name}, cell {index}", "".join(cell["source"])) for index, cell in enumerate(cells, 1)]
    except (ValueError, KeyError, TypeError):
        return [(name, content)]


def refuse_secret_files(paths: Iterable[pathlib.Path], secrets: Mapping[str, str]) -> None:
    """The same for files of any size and kind: this desk's secrets in any, tokens of services in texts.

    Raises:
        ConfigurationError: names the file.
    """
    known = {spelling.encode(): where for secret, where in secrets.items() for spelling in spellings(secret)}
    longest = max(map(len, known), default=0)
    for path in paths:
        tail = b""
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                for spelling, where in known.items():
                    if spelling in tail + block:
                        raise ConfigurationError(f"{path}: holds the secret of {where}; nothing was sent. Take it out")
                tail = block[-longest:]
        if path.stat().st_size <= BLOCK:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            refuse_secrets({str(path): text}, {})
