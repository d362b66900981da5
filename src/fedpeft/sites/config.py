"""A site's own file: who it is, where its data are and what it can carry. It is never sent."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpeft.backbones.locate import locate_model
from fedpeft.config import read_yaml
from fedpeft.config.validation import first_error
from fedpeft.errors import UserError, preview
from fedpeft.tasks.items import require_client_id


class SiteConfig(BaseModel):
    """One client of a federation over sites. Relative paths start at the file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    id: str = Field(description="names this client, to the server too")
    source: str = Field(description="a file or folder with this site's rows")
    folder: str = Field("state", description="where this site keeps its states and its adapters")
    socket: str = Field("worker.sock", description="where the worker listens, for this user alone; a short path")
    model: str | None = Field(
        None, description="the model here, in place of the experiment's: a hub id, a local folder or package:NAME"
    )
    memory_mib: float | None = Field(None, gt=0, le=2.0**30, description="what training may take; null: no bound")
    superlink: str | None = Field(None, description="host:port of the server, for this site's node")
    root_certificates: str | None = Field(None, description="PEM file of the authority that signed the server's")
    node_key: str | None = Field(None, description="this site's private key, which the server knows the public half of")
    insecure: bool = Field(False, description="plain text, without keys: for trials on one machine only")
    device: str | None = Field(None, description="where it trains: cpu, cuda ...; null: as the experiment says")


def load_site(path: Path) -> SiteConfig:
    """Reads and checks a site's file; its paths are absolute from here on. Raises UserError, one line."""
    if not path.is_file():
        raise UserError(f"no such site file: {path}; `fedpeft site init` writes one")
    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected settings as KEY: VALUE, received {preview(fields)}")
    try:
        site = SiteConfig.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{path}: {first_error(error, SiteConfig)}") from error
    base = path.parent.resolve()
    own = {name: str(base / getattr(site, name)) for name in ("source", "folder", "socket")}
    own |= {
        name: str(base / value)
        for name in ("root_certificates", "node_key")
        if (value := getattr(site, name)) is not None
    }
    if site.model is not None:
        own["model"] = locate_model(site.model, base)
    return site.model_copy(update={**own, "id": require_client_id(site.id, str(path))})
