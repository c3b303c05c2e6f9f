"""Where a browser shows a run's repository and commit."""

import re
from collections.abc import Sequence

#: https://user:token@host:port/path, and ssh://user@host:port/path. Only the web's ports are kept.
_URL = re.compile(r"(?P<scheme>https?|ssh|git|git\+ssh)://(?:[^/@]*@)?(?P<host>[^/:@\s]+)(?P<port>:\d+)?/(?P<path>\S+)")

#: git@host:path. A single letter before the colon is a drive of Windows.
_SCP = re.compile(r"(?:[^/@:\s]+@)?(?P<host>[^/:@\s]{2,}):(?P<path>[^\s:]+)")


def web_address(remote: str) -> str:
    """The web page of a git remote, without credentials; empty if there is none, as for a folder."""
    remote = remote.strip()
    is_url = "://" in remote
    found = (_URL if is_url else _SCP).fullmatch(remote)
    if found is None:
        return ""
    path = found["path"].strip("/").removesuffix(".git")
    is_web = is_url and found["scheme"].startswith("http")
    server = f"{found['scheme']}://{found['host']}{found['port'] or ''}" if is_web else f"https://{found['host']}"
    return f"{server}/{path}" if path else ""


def origin(remotes: Sequence[str], commit: str) -> tuple[str, str]:
    """The web page of the repository, and of the commit in it; without a page, the commit's hash. Empty if unknown."""
    page = next(filter(None, map(web_address, remotes)), "")
    commit = commit if re.fullmatch(r"[0-9a-f]{7,64}", commit) else ""  # labml writes "unknown" without a repository
    return page, f"{page}/commit/{commit}" if page and commit else commit
