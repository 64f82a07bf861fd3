"""How to sign in, found where Kaggle's own client finds it."""

import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from desk.kaggle.errors import CredentialsError
from desk.records import read_object, read_text

TOKEN_START = "KGAT_"  # of each token that Kaggle makes
TOKEN_FILES = ("access_token", "access_token.txt")  # in ~/.kaggle
TOKEN_PAGE = "https://www.kaggle.com/settings, Create New Token"


@dataclass(frozen=True)
class Credentials:
    """How to sign in: a user name with a key, or a token. The secret part is never shown."""

    source: str  # where it was found, for people
    username: str | None = None
    key: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    refresh: bool = False  # a sign-in of `kaggle auth login`, whose token the SDK renews


def find_credentials(environ: Mapping[str, str] | None = None, home: str | pathlib.Path | None = None) -> Credentials:
    """The first credentials on the ladder that Kaggle's own client climbs; files may be as Windows saves them.

    `KAGGLE_API_TOKEN`; `~/.kaggle/access_token`; `KAGGLE_USERNAME` with `KAGGLE_KEY`; `kaggle.json` in
    `KAGGLE_CONFIG_DIR`, `~/.kaggle` or `~/.config/kaggle`; the sign-in of `kaggle auth login`.

    Raises:
        CredentialsError: there are none, or a file that holds something else.
    """
    environ = os.environ if environ is None else environ
    home = pathlib.Path.home() if home is None else pathlib.Path(home)
    if token := environ.get("KAGGLE_API_TOKEN", "").strip():
        if os.path.exists(token) or os.sep in token or token.startswith("~"):  # no token has these characters
            content = read_text(token_path(token, home)).strip()
            if not content:
                raise CredentialsError(f"KAGGLE_API_TOKEN names {token}, which is no file with a token in it")
            return Credentials("the file in KAGGLE_API_TOKEN", token=one_word(content, token))
        return Credentials("KAGGLE_API_TOKEN", token=one_word(token, "KAGGLE_API_TOKEN"))
    for name in TOKEN_FILES:
        path = home / ".kaggle" / name
        if path.is_file() and (token := read_text(path).strip()):
            return Credentials(f"~/.kaggle/{name}", token=one_word(token, f"~/.kaggle/{name}"))
    username, key = environ.get("KAGGLE_USERNAME"), environ.get("KAGGLE_KEY")
    if username and key:
        return Credentials("KAGGLE_USERNAME and KAGGLE_KEY", username=username, key=key)
    for folder in credential_folders(environ, home):
        path = folder / "kaggle.json"
        if path.is_file():
            shown, text, found = str(path).replace(str(home), "~", 1), read_text(path).strip(), read_object(path)
            if text.startswith(TOKEN_START):  # a token, pasted into the file of the older kind
                return Credentials(shown, token=one_word(text, shown))
            if found and not {"username", "key"} & found.keys():
                continue  # settings of the client, such as a proxy, and no credentials
            if not all(isinstance(found.get(name), str) and found[name].strip() for name in ("username", "key")):
                raise CredentialsError(f"{path} holds no username and key: make a new one at {TOKEN_PAGE}")
            return Credentials(shown, username=found["username"].strip(), key=found["key"].strip())
    signed_in = home / ".kaggle" / "credentials.json"
    if found := read_object(signed_in):
        secret = found.get("access_token") or found.get("refresh_token")
        return Credentials("kaggle auth login", username=found.get("username"), token=secret, refresh=True)
    raise CredentialsError(
        f"no Kaggle credentials. Make a token at {TOKEN_PAGE}, and put kaggle.json into ~/.kaggle/ (chmod 600), or the "
        "token into KAGGLE_API_TOKEN"
    )


def credential_folders(environ: Mapping[str, str], home: pathlib.Path) -> list[pathlib.Path]:
    """The folders in which the client looks for kaggle.json, in its order."""
    folders = [home / ".kaggle", pathlib.Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"]
    configured = environ.get("KAGGLE_CONFIG_DIR")
    return [pathlib.Path(configured), *folders] if configured else folders


def credential_files(environ: Mapping[str, str], home: pathlib.Path) -> list[pathlib.Path]:
    """The files in which the client may find credentials, whether or not they are there."""
    names = ("kaggle.json", "credentials.json", *TOKEN_FILES)
    found = [folder / name for folder in credential_folders(environ, home) for name in names]
    if token := environ.get("KAGGLE_API_TOKEN", "").strip():  # or the path of its file
        found.append(token_path(token, home))
    return found


def token_path(token: str, home: pathlib.Path) -> pathlib.Path:
    """The file that `KAGGLE_API_TOKEN` names, if it names one."""
    return home / token[2:] if token.startswith("~/") else pathlib.Path(token)


def one_word(token: str, place: str) -> str:
    """The token.

    Raises:
        CredentialsError: it has blanks in it, as a text that was pasted with more around it.
    """
    if len(token.split()) > 1:
        raise CredentialsError(f"{place}: the token has blanks in it; paste it alone, or make one at {TOKEN_PAGE}")
    return token
