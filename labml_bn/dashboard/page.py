"""labml's page, changed where it does not fit this project.

The page and its script are those of labml-app, whose version pyproject.toml pins. Every change is in the two lists
below; what a change calls is in `page.js`, and `page.css` has the rest. If a text that is changed is not found, the
dashboard does not start.
"""

import re

from labml_bn.cli.errors import UserError
from labml_bn.dashboard.assets import HINT, package_folder

#: The URLs that the page loads from other hosts, and what replaces each; the browser fetches a manifest without the
#: cookie that lets it in.
_FILES = {
    "https://d3js.org/d3.v6.min.js": "/assets/mpld3/js/d3.v5.min.js",
    "https://cdn.jsdelivr.net/npm/bootstrap@5.0.0-beta2/dist/css/bootstrap.min.css": (
        "/assets/bootstrap/static/bootstrap/css/bootstrap.min.css"
    ),
    "https://cdnjs.cloudflare.com/ajax/libs/font-awesome/5.9.0/css/all.css": (
        "/assets/fontawesome/static/fontawesome/css/all.min.css"
    ),
    '<link href="/site.webmanifest" rel="manifest">': "",
    '<script src="/js/bundle.min.js">': '<script src="/assets/page.js"></script><script src="/js/bundle.min.js">',
    '<link href="/css/style.css" rel="stylesheet">': (
        '<link href="/css/style.css" rel="stylesheet"><link href="/assets/page.css" rel="stylesheet">'
    ),
}

#: Changes of the page's script: a pattern, how often it occurs, and what replaces it, in which groups are kept.
_CHANGES = [
    # It refreshes every two minutes, and not what it has loaded within the last five seconds.
    (r"this\.remainingTime=120\b", 2, "this.remainingTime=labmlBn.refreshSeconds()"),
    (r"return 5e3<\(new Date\)", 1, "return 1e3<(new Date)"),
    # A chart that a run has got since its page was opened is not added. (A computer's page has the same code.)
    (
        r"(async onRefresh\(\)\{let e=\(new Date\)\.getTime\(\);try\{await this\.loader\.load\(!0\))"
        r"(?=.{0,300}this\.runHeaderCard\.refresh)",
        1,
        r"\1,labmlBn.addNewCharts(this)",
    ),
    # Neighbouring curves have almost the same colour.
    (
        r"for\(let e=0;e<n;\+\+e\)this\.colors\.push\(.*?\);"
        r"for\(let e=0;e<r;\+\+e\)this\.secondColors\.push\(.*?\)\)\)",
        1,
        "this.colors=labmlBn.colours(n),this.secondColors=labmlBn.paleColours(r)",
    ),
    (
        r"of (this\.currentSeries\.concat\(this\.baseSeries\))\)this\.uniqueItems\.has",
        2,
        r"of labmlBn.inColourOrder(\1))this.uniqueItems.has",
    ),
    # A new comparison opens without a metric.
    (
        r"await this\.savePreferences\(\),this\.plotIdx=\(0,l\.fillPlotPreferences\)\(this\.series,\[\]\),"
        r"this\.basePlotIdx=\(0,l\.fillPlotPreferences\)\(this\.baseSeries,\[\]\),",
        1,
        "await this.requestMissingMetrics(),this.plotIdx=labmlBn.compared(this.series),"
        "this.basePlotIdx=labmlBn.compared(this.baseSeries),await this.savePreferences(),",
    ),
    # A text in the search field was a regular expression, and the page failed at `betas=[0.8`.
    (r'new RegExp\(this\.searchQuery\.toLowerCase\(\),"g"\)', 4, "labmlBn.searched(this.searchQuery)"),
    # Controls without a function here: no computers are monitored, a run may have no tags, and there is no account.
    (r'new n\.NavButton\(\{icon:"\.fas\.fa-desktop",text:"Computers".*?\.render\(e\),', 1, ""),
    (r',new n\.NavButton\(\{icon:"\.fas\.fa-power-off",text:"Sign out".*?\.render\(e\)', 1, ""),
    (r",this\.renderProcess\(\)", 1, ",labmlBn.addNewCharts(this)"),
    (r'new o\.default\(\{name:"Rank".*?this\.run\.world_size\}\)\.render\(e\),', 1, ""),
    (r'(e\("li",e=>\{e\("span",".item-key","Tags"\))', 1, r"this.run.tags.length&&\1"),
    (r'new \w+\.default\(\{name:"Token".*?name:"Email".*?\.render\(\w+\),', 1, ""),
    # Sizes that are always 0, and empty links to the repository.
    (
        r'new o\.default\(\{name:"Start Step".*?this\.run\.commit_message\}\)\.render\(e\)',
        1,
        "labmlBn.showOrigin(e,this.run)",
    ),
    # A comment or note could not be emptied, and the list showed the new comment instead of its own line.
    (r"this\.(comment|note)Field\.getInput\(\)&&\((this\.run\.\1=)", 2, r"(\2"),
    (r"async localUpdateRun\(\w\)\{", 1, r"\g<0>return this.invalidate_cache();"),
    # The reason of a refusal was shown twice, once as JSON.
    (r'\+\(null!=(\w)\.message\?" "\+\1\.message:""\)', 1, ""),
    # What to do if the browser has no token, or that of a dashboard that has ended. There is no login.
    ("We are having trouble authenticating your request", 1, "Open the address that the dashboard printed"),
    (
        r',e\("button",".btn.nav-link",\{on:\{click:this\.events\.login\}\},e=>\{.{0,80}?"Login Again"\)\}\)',
        1,
        "",
    ),
    # The theme was reset before it was read, and sent before it was changed.
    (
        r"this\.updateRadio\(\);try\{(await this\.userCache\.setUser\(this\.user\)),(this\.user\.theme=[^,]*),",
        1,
        r"try{\2,\1,",
    ),
]


def html() -> str:
    """The page, which loads files from this machine only. Raises UserError if it would still load others."""
    changed = (package_folder("labml_app") / "static" / "index.html").read_text(encoding="utf-8")
    for old, new in _FILES.items():
        changed = _replaced(changed, re.escape(old), 1, new.replace("\\", r"\\"))
    changed = re.sub(r'\s(integrity|crossorigin)="[^"]*"', "", changed)
    if re.search(r'(src|href)="(https?:)?//', changed):
        raise UserError(f"this version of labml-app loads parts of its page from other hosts; {HINT}")
    return changed


def script() -> str:
    """The page's script. Raises UserError if it is not the one that the changes are for."""
    changed = (package_folder("labml_app") / "static" / "js" / "bundle.min.js").read_text(encoding="utf-8")
    for pattern, count, new in _CHANGES:
        changed = _replaced(changed, pattern, count, new)
    return changed


def _replaced(text: str, pattern: str, count: int, new: str) -> str:
    changed, found = re.subn(pattern, new, text)
    if found != count:
        raise UserError(f"this version of labml-app has another page ({pattern[:40]!r} is there {found} times); {HINT}")
    return changed
