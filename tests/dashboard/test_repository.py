"""The links to a run's repository and commit, for every form of a git remote."""

import pytest

from labml_bn.dashboard.repository import origin, web_address

PAGE = "https://github.com/owner/name"


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://github.com/owner/name.git", PAGE),
        ("https://github.com/owner/name", PAGE),
        ("https://github.com/owner/name/", PAGE),
        ("git@github.com:owner/name.git", PAGE),
        ("git@github.com:owner/name", PAGE),
        ("github.com:owner/name", PAGE),
        ("ssh://git@github.com/owner/name.git", PAGE),
        ("ssh://git@github.com:22/owner/name.git", PAGE),
        ("git://github.com/owner/name", PAGE),
        ("https://user:secret@github.com/owner/name.git", PAGE),
        ("https://secret@github.com/owner/name", PAGE),
        ("http://server.example:8080/group/sub/name.git", "http://server.example:8080/group/sub/name"),
        ("git@gitlab.example:group/sub/name.git", "https://gitlab.example/group/sub/name"),
        ("https://server.example/legit.github", "https://server.example/legit.github"),
        ("/srv/git/name.git", ""),
        ("../name.git", ""),
        ("file:///srv/git/name.git", ""),
        (r"C:\git\name.git", ""),
        ("C:/git/name.git", ""),
        ("javascript:alert(1)", "https://javascript/alert(1)"),
        ("https://github.com/", ""),
        ("https://", ""),
        ("unknown", ""),
        ("", ""),
    ],
)
def test_web_address(remote: str, expected: str) -> None:
    assert web_address(remote) == expected


def test_origin() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert origin(["/srv/name.git", "git@github.com:owner/name.git"], commit) == (PAGE, f"{PAGE}/commit/{commit}")
    assert origin([], commit) == ("", commit)
    assert origin(["git@github.com:owner/name.git"], "unknown") == (PAGE, "")
    assert origin([], "unknown") == origin([], "") == ("", "")
