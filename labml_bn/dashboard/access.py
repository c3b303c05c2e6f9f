"""Who is let in: browsers that have opened the address that the server printed, on this machine, as this user.

The address contains a token. A browser that opens it gets the token as a cookie, as with Jupyter. All other requests
are refused: those of other users of this machine, of the pages of other sites, and with another Host header (DNS
rebinding). So are those that are larger than the page's own, or do not arrive within some seconds.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, urlencode

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.requests import ClientDisconnect

from labml_bn.cli.output import report
from labml_bn.dashboard.address import CHALLENGE_HEADER, HOST, PROOF_HEADER, TOKEN, Address, forwarding

Next = Callable[[Request], Awaitable[Response]]

#: The largest body of a request, in bytes, and the seconds in which it must arrive.
LARGEST, SECONDS = 1_000_000, 5.0

_HEADERS = {
    # The browser refuses to load anything from other hosts into the page. A response can have a stricter policy.
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """Refuses requests that do not come from the server's own page, and reports errors on the terminal only.

    `name` is what messages call the server.
    """

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._name = name
        self._hosts = {name if address.port == 80 else f"{name}:{address.port}" for name in (HOST, "localhost")}
        self._origins = {f"http://{host}" for host in self._hosts}
        self._cookie = f"labml-bn-{address.port}"  # the dashboards at all ports get the cookies of all

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Answer a request, or refuse it."""
        response = await self._answer(request, call_next)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        proof = self._address.proof(request.headers.get(CHALLENGE_HEADER, ""))
        if proof is not None:
            response.headers[PROOF_HEADER] = proof
        return response

    async def _answer(self, request: Request, call_next: Next) -> Response:
        if request.headers.get("host") not in self._hosts:
            return _refusal(request, 403, f"wrong host: the {self._name}'s address is {self._address.url}")
        if self._is_foreign(request):
            return _refusal(request, 403, "requests from other sites are refused")
        if request.method == "GET" and self._is_token(request.query_params.get(TOKEN)):
            return self._with_cookie(request)
        if not self._is_known(request):
            return _refusal(request, 403, f"open the address that the {self._name} printed, which contains a token")
        if "transfer-encoding" in request.headers:
            return _refusal(request, 411, "a request must have a Content-Length")
        if int(request.headers.get("content-length", 0)) > LARGEST:
            return _refusal(request, 413, f"a request must have at most {LARGEST} bytes")
        try:
            # Received before anything is locked: a slow client does not block the others.
            await asyncio.wait_for(request.body(), SECONDS)
            return await call_next(request)
        except (TimeoutError, asyncio.TimeoutError):
            return _refusal(request, 408, f"a request must be complete within {SECONDS:g} seconds")
        except ClientDisconnect:
            return Response(status_code=400)  # nobody receives it
        except Exception as error:
            report(f"{request.method} {request.url.path} failed: {error!r}")
            return JSONResponse({"error": f"internal error; the reason is on the {self._name}'s terminal"}, 500)

    def _is_foreign(self, request: Request) -> bool:
        origin = request.headers.get("origin")
        is_cross_site = request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
        is_protected = request.url.path.startswith("/api/") or request.method not in {"GET", "HEAD"}
        return (origin is not None and origin not in self._origins) or (is_cross_site and is_protected)

    def _is_known(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return self._is_token(request.cookies.get(self._cookie)) or (scheme == TOKEN and self._is_token(token))

    def _is_token(self, text: str | None) -> bool:
        return hmac.compare_digest((text or "").encode("utf-8", "replace"), self._address.token.encode())

    def _with_cookie(self, request: Request) -> Response:
        """The cookie, and the same page without the token in its address.

        It is opened by a page, as a redirection would keep the site that the address was opened from, if any, and the
        browser would not send the cookie then.
        """
        rest = urlencode([(name, value) for name, value in parse_qsl(request.url.query) if name != TOKEN])
        path = request.scope["raw_path"].decode("ascii") + (f"?{rest}" if rest else "")
        # With the host, as `//elsewhere.example` alone would be another one.
        response = HTMLResponse(forwarding(f"http://{request.headers['host']}{path}"))
        response.set_cookie(self._cookie, self._address.token, path="/", httponly=True, samesite="strict")
        return response


def _refusal(request: Request, status: int, message: str) -> Response:
    """One line, and the end of the connection: what is left of the request is not read. The page expects JSON."""
    headers = {"Connection": "close"}
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": message}, status, headers)
    return PlainTextResponse(message, status, headers)
