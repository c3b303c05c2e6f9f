"""The files that the dashboard's page consists of, all served from this machine.

labml's page loads d3, Bootstrap and Font Awesome from content delivery networks, and stays blank without d3. Here these
files come from Python packages that are installed with the dashboard: pyproject.toml pins the versions, and their
checksums are verified here.
"""

import hashlib
import importlib.util
import re
from pathlib import Path

from labml_bn.cli.errors import UserError

#: The URLs that the page loads from other hosts, and the file of a package that replaces each.
_REPLACEMENTS = {
    "https://d3js.org/d3.v6.min.js": "mpld3/js/d3.v5.min.js",
    "https://cdn.jsdelivr.net/npm/bootstrap@5.0.0-beta2/dist/css/bootstrap.min.css": (
        "bootstrap/static/bootstrap/css/bootstrap.min.css"
    ),
    "https://cdnjs.cloudflare.com/ajax/libs/font-awesome/5.9.0/css/all.css": (
        "fontawesome/static/fontawesome/css/all.min.css"
    ),
}

#: Every file that is not from labml's package, with its SHA-256.
_SHA256 = {
    "mpld3/js/d3.v5.min.js": "bdad5585ef9a965ff25458738309b006058c55f2c78d794d25fbecae35014609",
    "bootstrap/static/bootstrap/css/bootstrap.min.css": (
        "3c8f27e6009ccfd710a905e6dcf12d0ee3c6f2ac7da05b0572d3e0d12e736fc8"
    ),
    "fontawesome/static/fontawesome/css/all.min.css": (
        "5ceaaba22d75b58e04150311f596306562a3e595e27ed4b1dfa451b82dda9e50"
    ),
    "fontawesome/static/fontawesome/webfonts/fa-solid-900.woff2": (
        "ae17c16afbea216707b2203ea1cf9bdb45b9bfe47d0f4ae3258ddbc6294dd02f"
    ),
    "fontawesome/static/fontawesome/webfonts/fa-regular-400.woff2": (
        "c27da6f833431da5aa295c44540bfac0fd8270ba6a3c4346427006d8a7b34b76"
    ),
}

_HINT = "reinstall the dashboard: pip install --force-reinstall 'labml-bn[dashboard]'"


def files() -> dict[str, Path]:
    """Every file that is served, by its URL path. Raises UserError if one is missing or its checksum is wrong."""
    static = _package("labml_app") / "static"
    served = {f"/{path.relative_to(static).as_posix()}": path for path in static.rglob("*") if path.is_file()}
    for name, sha256 in _SHA256.items():
        package, _, inside = name.partition("/")
        path = _package(package) / inside
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise UserError(f"{path} is missing, or its checksum is wrong; {_HINT}")
        served[f"/assets/{name}"] = path
    return served


def page() -> str:
    """labml's page, loading files from this machine only. Raises UserError if it would still load others."""
    html = (_package("labml_app") / "static" / "index.html").read_text(encoding="utf-8")
    for url, name in _REPLACEMENTS.items():
        html = html.replace(url, f"/assets/{name}")
    html = re.sub(r'\s(integrity|crossorigin)="[^"]*"', "", html)
    if re.search(r'(src|href)="(https?:)?//', html):
        raise UserError(f"this version of labml-app loads parts of its page from other hosts; {_HINT}")
    return html


def _package(name: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the dashboard needs the package {name}: pip install 'labml-bn[dashboard]'")
    return Path(next(iter(spec.submodule_search_locations)))
