"""The requests that this project's own code answers: about the list of runs, one run, and what the user changes.

labml's list repeats a run's settings and lacks its result; its links to repositories are wrong for most addresses; it
keeps changes in the database only; and a deleted or archived run can be left in two lists, or in none.
"""

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from labml_app.db import run
from labml_app.db.folder import DefaultFolders
from pydantic import AfterValidator, Field

from labml_bn.cli.errors import reason
from labml_bn.dashboard.address import run_id
from labml_bn.dashboard.importing import ResultIndex, local_user, remove_run
from labml_bn.dashboard.repository import origin
from labml_bn.dashboard.requests import API, Body, check_run, read_body
from labml_bn.dashboard.texts import harmless
from labml_bn.records import notes
from labml_bn.records.folder import run_folders


class Runs(Body):
    """Which runs are archived, moved back or deleted."""

    run_uuids: Annotated[list[str], Field(max_length=100_000)]


def _encodable(text: str) -> str:
    """The text. Raises ValueError if UTF-8 does not have it: JSON can also express half a surrogate pair."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Notes(Body):
    """What the page can change of a run; the names are those of labml's app."""

    name: Annotated[Text, Field(max_length=notes.LONGEST_NAME)] = ""
    comment: Text = ""
    note: Text = ""
    favourite_configs: list[Text] = Field(default_factory=list)
    selected_configs: list[Text] = Field(default_factory=list)


def add_handlers(app: FastAPI, logs: Path) -> None:
    """Answer the requests about the runs in `logs`."""

    @app.post(f"{API}auth/user")
    async def get_user() -> dict[str, Any]:
        return {"is_successful": True, "user": local_user().get_data(), "token": "local"}

    @app.get(f"{API}runs/{{labml_token}}")
    async def list_runs(folder_name: str = "default") -> dict[str, Any]:
        project = local_user().default_project
        listed = [_entry(shown) for shown in project.get_runs(folder_name)]
        listed.sort(key=lambda entry: float(entry["start_time"]), reverse=True)
        return {"runs": listed, "labml_token": project.labml_token}

    @app.post(f"{API}runs/archive")
    async def archive(request: Request) -> dict[str, Any]:
        _move(await _runs(request), DefaultFolders.DEFAULT.value, DefaultFolders.ARCHIVE.value)
        return {"is_successful": True}

    @app.post(f"{API}runs/unarchive")
    async def move_back(request: Request) -> dict[str, Any]:
        _move(await _runs(request), DefaultFolders.ARCHIVE.value, DefaultFolders.DEFAULT.value)
        return {"is_successful": True}

    @app.put(f"{API}runs")
    async def delete(request: Request) -> dict[str, Any]:
        for shown in await _runs(request):
            remove_run(shown.run_uuid)
        return {"is_successful": True}

    @app.get(f"{API}run/{{run_uuid}}")
    async def get_run(request: Request, run_uuid: str) -> dict[str, Any]:
        check_run(run_uuid)
        shown = run.get(run_uuid)
        repository, commit = origin(shown.repo_remotes or [], shown.commit)
        answer: dict[str, Any] = shown.get_data(request) | {"repo_remotes": repository, "commit": commit}
        return answer

    @app.post(f"{API}run/{{run_uuid}}")
    async def edit_run(request: Request, run_uuid: str) -> dict[str, Any]:
        check_run(run_uuid)
        shown = run.get(run_uuid)
        sent = await read_body(request, Notes)
        changes = {name: value for name, value in sent.items() if value != getattr(shown, name)}
        try:
            if changes:
                notes.write(_folder(logs, run_uuid), changes)
        except OSError as error:
            why = reason(error)
            raise HTTPException(409, f"not saved: cannot write {notes.FILE} to the run's folder: {why}") from error
        shown.edit_run(harmless(changes))
        return {"errors": []}

    @app.post(f"{API}logs/{{name}}/{{run_uuid}}")
    async def get_output(run_uuid: str) -> dict[str, Any]:
        check_run(run_uuid)
        return {"pages": {}, "page_length": 0, "wrap_logs": True}  # the page asks for what a run has printed


def _entry(shown: run.Run) -> dict[str, Any]:
    """A run in the list. Under its name are its id, its accuracy, its tags, and the user's comment.

    The page's search field looks for a text in the name and in this line, so that a sweep is found by its name.
    """
    parts = [str(ResultIndex.get(shown.run_uuid) or ""), *(shown.tags or []), shown.comment]
    return {**shown.get_summary(), **shown.status.load().get_data(), "comment": ", ".join(filter(None, parts))}


async def _runs(request: Request) -> list[run.Run]:
    """The runs that a request names, each once. Raises HTTPException if one does not exist."""
    uuids = list(dict.fromkeys((await read_body(request, Runs))["run_uuids"]))
    for uuid in uuids:
        check_run(uuid)
    return [run.get(uuid) for uuid in uuids]


def _move(runs: list[run.Run], source: str, target: str) -> None:
    """Move those of the runs that are in one list to the other."""
    project = local_user().default_project
    for shown in runs:
        if shown.parent_folder == source:
            project.remove_from_folder(source, shown)
            project.add_to_folder(target, shown)
    project.save()


def _folder(logs: Path, uuid: str) -> Path:
    """The folder of a run. Raises OSError if it has been deleted."""
    for folder in run_folders(logs):
        if run_id(folder.name) == uuid:
            return folder
    raise FileNotFoundError("the folder does not exist")
