"""The requests of labml's page that labml's own code answers: which they are, and what each may contain.

labml's app stores whatever it gets, and fails whenever it reads that again. So a request is answered only if it is in
the table below, is about a run that exists, and has a body of the form that the table says. `handlers.py` has the
requests that are answered by this project's own code.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

import labml_app.handlers
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from labml_app.db import run
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

#: Before the paths of all requests.
API = "/api/v1/"


class Body(BaseModel):
    """The body of a request: a JSON object without other entries."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


Shown = list[Literal[-1, 0, 1]]
Text = Annotated[str, Field(max_length=10_000)]


class Curves(Body):
    """Which curves are wanted."""

    get_all: bool


class Chart(Body):
    """How a chart shows its curves. A list has one entry for each metric, in the order of their names."""

    series_preferences: Shown
    series_names: list[str] = []
    chart_type: Literal[0, 1] = 0
    step_range: Annotated[list[float], Field(min_length=2, max_length=2)] = [-1, -1]
    focus_smoothed: bool = True
    smooth_value: Annotated[float, Field(ge=0, le=1)] = 0.5
    smooth_function: Literal["exponential", "left_exponential"] = "exponential"


class Comparison(Chart):
    """The same for a comparison with another run, or with none yet."""

    base_experiment: str
    base_series_preferences: Shown
    base_series_names: list[str] = []
    is_base_distributed: bool = False


class NewChart(Body):
    """An additional chart."""

    name: Text
    description: Text = ""


class ChangedChart(Body):
    """What is changed of one."""

    id: str
    name: Text = ""
    description: Text = ""
    created_time: float = 0
    preferences: Chart | None = None


class DeletedChart(Body):
    """Which one is deleted."""

    id: str


class Theme(BaseModel):
    """The user, of whom only the page's theme can be changed: the page sends all that it got."""

    model_config = ConfigDict(strict=True, extra="ignore")

    theme: Literal["light", "dark"]


class User(Body):
    """The page's settings."""

    user: Theme


#: The requests by method and path, with the form of their bodies. The body of a GET is ignored.
FORMS: Mapping[tuple[str, str], type[Body]] = {
    ("GET", "run/status/{run_uuid}"): Body,
    ("POST", "metrics/{run_uuid}"): Curves,
    ("GET", "metrics/preferences/{run_uuid}"): Body,
    ("POST", "metrics/preferences/{run_uuid}"): Chart,
    ("GET", "custom_metrics/{run_uuid}"): Body,
    ("POST", "custom_metrics/{run_uuid}"): ChangedChart,
    ("POST", "custom_metrics/{run_uuid}/create"): NewChart,
    ("POST", "custom_metrics/{run_uuid}/delete"): DeletedChart,
    ("POST", "compare/metrics/{run_uuid}"): Curves,
    ("GET", "compare/preferences/{run_uuid}"): Body,
    ("POST", "compare/preferences/{run_uuid}"): Comparison,
    ("POST", "user"): User,
}


def add_app_handlers(app: FastAPI) -> None:
    """Let labml's code answer the requests in the table."""
    labml = FastAPI()
    labml_app.handlers.add_handlers(labml)
    found = {
        (method, route.path.removeprefix(API)): route.endpoint
        for route in labml.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    for (method, path), form in FORMS.items():
        app.add_api_route(API + path, _checked(found[method, path], form), methods=[method])


async def read_body(request: Request, form: type[BaseModel]) -> dict[str, Any]:
    """The body of a request, without the entries that it does not have. Raises HTTPException if its form is another."""
    try:
        return form.model_validate_json(await request.body()).model_dump(exclude_unset=True)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, wrong["loc"]))
        raise HTTPException(400, f"malformed request: {place + ': ' if place else ''}{wrong['msg']}") from error


def check_run(uuid: str) -> None:
    """Raise HTTPException if there is no such run."""
    if run.get(uuid) is None:
        raise HTTPException(404, "there is no such run")


class _Checked(Request):
    """A request whose body has been checked."""

    def __init__(self, request: Request, content: dict[str, Any]) -> None:
        super().__init__(request.scope)
        self._content = content

    async def json(self) -> Any:
        return self._content


def _checked(endpoint: Callable[..., Awaitable[Any]], form: type[Body]) -> Callable[[Request], Awaitable[Any]]:
    async def answer(request: Request) -> Any:
        content = {} if request.method == "GET" else await read_body(request, form)
        uuids = [*request.path_params.values(), content.get("base_experiment")]
        if form is Curves and request.url.path.startswith(f"{API}compare/"):
            uuids.append(request.query_params.get("current", "none"))
        for uuid in filter(None, uuids):
            check_run(uuid)
        try:
            return await endpoint(_Checked(request, content), **request.path_params)
        except ValueError as error:  # the names of the metrics are missing, and there are others by now
            raise HTTPException(400, f"malformed request: {error}") from error

    return answer


async def refused(_: Request, error: Exception) -> JSONResponse:
    """The response to a request that is not answered, in the form that the page shows."""
    assert isinstance(error, StarletteHTTPException)  # FastAPI's is one too
    return JSONResponse({"error": error.detail}, error.status_code)
