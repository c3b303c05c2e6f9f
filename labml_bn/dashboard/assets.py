"""The files that the dashboard's page consists of, all served from this machine.

labml's page loads d3, Bootstrap and Font Awesome from content delivery networks, and stays blank without d3. Here these
files come from Python packages that are installed with the dashboard: pyproject.toml pins the versions, and their
checksums are verified here. `page.py` changes labml's own files.
"""

import hashlib
import importlib.util
from pathlib import Path

from labml_bn.cli.errors import UserError

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

#: What to do if a file is not as expected.
HINT = "reinstall the dashboard: pip install --force-reinstall 'labml-bn[dashboard]'"


def files() -> dict[str, Path]:
    """Every file that is served, by its URL path. Raises UserError if one is missing or its checksum is wrong."""
    static = package_folder("labml_app") / "static"
    served = {f"/{path.relative_to(static).as_posix()}": path for path in static.rglob("*") if path.is_file()}
    for name, sha256 in _SHA256.items():
        package, _, inside = name.partition("/")
        path = package_folder(package) / inside
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise UserError(f"{path} is missing, or its checksum is wrong; {HINT}")
        served[f"/assets/{name}"] = path
    for own in ("page.js", "page.css"):
        served[f"/assets/{own}"] = Path(__file__).with_name(own)
    return served


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported. Raises UserError if there is none."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the dashboard needs the package {name}: pip install 'labml-bn[dashboard]'")
    return Path(next(iter(spec.submodule_search_locations)))
