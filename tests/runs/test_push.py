"""What goes to the hub, and how it is refused; the hub is a fake behind huggingface_hub's own interface."""

from types import SimpleNamespace

import pytest
from helpers.mistakes import require_line
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from fedpeft.runs.push import push

HttpError = HfHubHTTPError.__bases__[0]  # of the HTTP library that huggingface_hub uses


class Hub:
    """HfApi, as far as it is used: notes what it is asked for."""

    def __init__(self, private=True, error=None):
        self.private, self.error, self.commits, self.created = private, error, [], []

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.error is not None:
            raise self.error
        self.created.append((repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def repo_info(self, repo_id):
        return SimpleNamespace(private=self.private)

    def create_commit(self, repo_id, operations, *, commit_message):
        self.commits.append((repo_id, sorted(operation.path_in_repo for operation in operations), commit_message))


@pytest.fixture
def adapters(exported):
    folder, _ = exported
    return {name: folder / "clients" / name / "adapter" for name in ("site0", "site1")}


def test_each_clients_peft_files_and_card_go_in_one_commit_to_a_private_repository(adapters):
    hub = Hub()
    assert push(adapters, "owner/models", public=False, api=hub) == "https://huggingface.co/owner/models"
    assert hub.created == [("owner/models", True, True)]
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    ((repository, paths, message),) = hub.commits
    assert repository == "owner/models" and message == "2 models by fedpeft"
    assert paths == [f"{name}/{file}" for name in adapters for file in files]  # fedpeft.json names paths


def test_one_client_may_have_the_top(adapters):
    hub = Hub()
    push({"": adapters["site0"]}, "owner/one", public=True, api=hub)
    assert hub.created == [("owner/one", False, True)]
    assert hub.commits[0][1] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


def test_all_files_of_a_merged_folder_go(tmp_path):
    for name in ("config.json", "model.safetensors", "classifier.safetensors", "README.md"):
        (tmp_path / name).write_text("{}")
    hub = Hub()
    push({"a": tmp_path}, "owner/one", public=False, api=hub)
    assert len(hub.commits[0][1]) == 4


def test_nothing_goes_into_a_public_repository_unasked(adapters):
    hub = Hub(private=False)
    require_line(lambda: push(adapters, "owner/open", public=False, api=hub), "'owner/open'", "public", "--public")
    assert hub.commits == []
    push(adapters, "owner/open", public=True, api=hub)
    assert len(hub.commits) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalTokenNotFoundError("Token is required,\nbut no token found."), ["no token", "hf auth login"]),
        (HFValidationError("Repo id must be in the form 'repo_name'"), ["'a/b/c'", "OWNER/NAME"]),
        (HttpError("[Errno -2] Name or service not known"), ["Name or service", "network"]),
        (OSError("offline"), ["offline", "network"]),
        (
            HfHubHTTPError(
                "403 Forbidden:\n\x1b[2Jyou may not",
                response=SimpleNamespace(headers={}, request=None, status_code=403),
            ),
            ["403 Forbidden", "token"],
        ),
    ],
)
def test_whatever_the_hub_says_is_one_line(error, words, adapters):
    require_line(lambda: push(adapters, "a/b/c", public=False, api=Hub(error=error)), "--push-to-hub", *words)
