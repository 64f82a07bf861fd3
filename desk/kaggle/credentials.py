"""How to sign in, found where Kaggle's own client finds it."""

import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from desk.kaggle.errors import CredentialsError
from desk.records import read_object, read_text

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
    """The first credentials on the ladder that Kaggle's own client climbs.

    `KAGGLE_API_TOKEN`; `~/.kaggle/access_token`; `KAGGLE_USERNAME` with `KAGGLE_KEY`; `kaggle.json` in
    `KAGGLE_CONFIG_DIR`, `~/.kaggle` or `~/.config/kaggle`; the sign-in of `kaggle auth login`.

    Raises:
        CredentialsError: there are none, or a file that holds something else.
    """
    environ = os.environ if environ is None else environ
    home = pathlib.Path.home() if home is None else pathlib.Path(home)
    if token := environ.get("KAGGLE_API_TOKEN"):
        if os.path.exists(token):
            return Credentials("the file in KAGGLE_API_TOKEN", token=read_text(token).strip())
        return Credentials("KAGGLE_API_TOKEN", token=token)
    for name in ("access_token", "access_token.txt"):
        path = home / ".kaggle" / name
        if path.is_file() and (token := read_text(path).strip()):
            return Credentials(f"~/.kaggle/{name}", token=token)
    username, key = environ.get("KAGGLE_USERNAME"), environ.get("KAGGLE_KEY")
    if username and key:
        return Credentials("KAGGLE_USERNAME and KAGGLE_KEY", username=username, key=key)
    folders = [home / ".kaggle", pathlib.Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "kaggle"]
    if configured := environ.get("KAGGLE_CONFIG_DIR"):
        folders.insert(0, pathlib.Path(configured))
    for folder in folders:
        path = folder / "kaggle.json"
        if path.is_file():
            found = read_object(path)
            if not all(isinstance(found.get(name), str) and found[name] for name in ("username", "key")):
                raise CredentialsError(f"{path} holds no username and key: make a new one at {TOKEN_PAGE}")
            shown = str(path).replace(str(home), "~", 1)
            return Credentials(shown, username=found["username"], key=found["key"])
    signed_in = home / ".kaggle" / "credentials.json"
    if found := read_object(signed_in):
        token = found.get("access_token") or found.get("refresh_token")
        return Credentials("kaggle auth login", username=found.get("username"), token=token, refresh=True)
    raise CredentialsError(
        f"no Kaggle credentials. Make a token at {TOKEN_PAGE}, and put kaggle.json into ~/.kaggle/ (chmod 600), or the "
        "token into KAGGLE_API_TOKEN"
    )
