"""The requests about runs that labml's app does not answer as this project needs: the list, one run, and a change.

labml's list repeats a run's settings and lacks its result; its links to repositories are wrong for most addresses; and
it keeps changes in the database only.
"""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from labml_app.db import run

from labml_bn.cli.errors import reason
from labml_bn.dashboard import notes
from labml_bn.dashboard.importing import ResultIndex, local_user
from labml_bn.dashboard.repository import origin
from labml_bn.records.folder import run_folders

#: The paths of the requests that are answered here.
RUNS = "/api/v1/runs/{labml_token}"
RUN = "/api/v1/run/{run_uuid}"


def add_handlers(app: FastAPI, logs: Path) -> None:
    """Answer the requests about the runs in `logs`."""

    @app.get(RUNS)
    async def list_runs(folder_name: str = "default") -> dict[str, Any]:
        project = local_user().default_project
        listed = [_entry(shown) for shown in project.get_runs(folder_name)]
        listed.sort(key=lambda entry: float(entry["start_time"]), reverse=True)
        return {"runs": listed, "labml_token": project.labml_token}

    @app.get(RUN)
    async def get_run(request: Request, run_uuid: str) -> JSONResponse:
        shown = run.get(run_uuid)
        if shown is None:
            return JSONResponse({}, 404)
        repository, commit = origin(shown.repo_remotes or [], shown.commit)
        return JSONResponse(shown.get_data(request) | {"repo_remotes": repository, "commit": commit})

    @app.post(RUN)
    async def edit_run(request: Request, run_uuid: str) -> JSONResponse:
        shown = run.get(run_uuid)
        if shown is None:
            return _refusal(404, "there is no such run")
        try:
            sent = await request.json()
        except ValueError:
            sent = None
        if not isinstance(sent, dict) or not all(notes.is_valid(name, value) for name, value in sent.items()):
            return _refusal(400, f"only {', '.join(notes.TEXTS + notes.LISTS)} can be changed, to texts")
        changes = {name: value for name, value in sent.items() if value != getattr(shown, name)}
        try:
            if changes:
                notes.write(_folder(logs, run_uuid), changes)
        except OSError as error:
            return _refusal(409, f"not saved: cannot write {notes.FILE} to the run's folder: {reason(error)}")
        shown.edit_run(changes)
        return JSONResponse({"errors": []})


def _entry(shown: run.Run) -> dict[str, Any]:
    """A run in the list. Under its name are its id, its accuracy, and the user's comment."""
    parts = [shown.run_uuid[:8], str(ResultIndex.get(shown.run_uuid) or ""), shown.comment]
    return {**shown.get_summary(), **shown.status.load().get_data(), "comment": ", ".join(filter(None, parts))}


def _folder(logs: Path, uuid: str) -> Path:
    """The folder of a run. Raises OSError if it has been deleted."""
    for folder in run_folders(logs):
        if folder.name == uuid:
            return folder
    raise FileNotFoundError("the folder does not exist")


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
