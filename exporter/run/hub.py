"""A name as a folder: the one on disk, else the Hub's cache, else the Hub."""

import re
from contextlib import suppress
from pathlib import Path

from exporter.errors import RunError
from exporter.run.folder import holds_all

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FETCHED = (
    *("*.json", "*.safetensors", "*.model", "*.jinja", "*.md", "*.yaml", "*.yml", "training_args.bin"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
"""What is fetched of a Hub repository; ``*`` reaches into folders too."""
FETCHED_BIN = ("*adapter_model*.bin", "*pytorch_model*.bin")
"""Fetched as well where those give no weights: most repositories that hold such files hold safetensors too."""

SNAPSHOT = re.compile(r"models--([^/\\]+)[/\\]snapshots(?:[/\\]|$)")
"""The part of a path in the Hub's cache that says which repository it is of."""

ADVICE = {
    "run": "Give the run, a folder or a Hub id such as org/name.",
    "base": "adapter_config.json names it, or --base; it was looked for relative to the run and to the current folder. "
    "Give the base model with --base DIR_OR_ID.",
    "adapter": "Give --adapter the folder of an adapter, or its Hub id such as org/name.",
}
"""What to do where there is no folder of a name."""


def resolve(name: str, revision: str | None, what: str, *, hint: str = "") -> Path:
    """A folder: the one named, else the Hub's cache, else the Hub. RunError where there is none.

    Args:
        name: a folder or a Hub id.
        revision: the Hub revision, which a folder has not.
        what: ``run``, ``base`` or ``adapter``, for the message.
        hint: a sentence that ends the message.
    """
    folder = expanded(name)
    try:
        if folder.is_dir():
            refuse_revision(name, what, revision)
            return folder.resolve()
    except OSError as error:
        raise RunError(f"{name}: no folder can have this name ({error.strerror}). Give the {what}'s folder.") from error
    # A name that begins with a dot, or with a folder that is here, is a path that was mistyped, not the Hub's.
    local = name.startswith((".", "~")) or is_folder(Path(name).parent) or name.endswith(".gguf")
    if folder.exists() or local or not HUB_ID.fullmatch(name):
        found = "is a file, expected a folder" if folder.exists() else "there is no such folder"
        raise RunError(f"{name}: {found}. {ADVICE[what]}{hint}")
    return _download(name, revision, what, hint)


def refuse_revision(name: str, what: str, revision: str | None) -> None:
    """RunError for a revision that was asked of a folder, ``what`` being ``run`` or ``base``."""
    if revision is not None:
        option = "--base-revision" if what == "base" else "--revision"
        raise RunError(
            f"{name}: is a folder here, which has no revisions; {option} {revision} was given, and expects a Hub "
            f"repository. Leave {option} out, or give the {what} by its Hub id, such as org/name, from where no folder "
            "is so called."
        )


def cached_name(place: str | Path) -> str | None:
    """The Hub id of a repository by the path of a snapshot in the Hub's cache; None for every other path."""
    found = SNAPSHOT.search(str(place))
    return found.group(1).replace("--", "/", 1) if found else None


def expanded(name: str | Path) -> Path:
    """A name as a path, ``~`` as the home folder; the name itself where there is no such user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_folder(place: Path) -> bool:
    """Whether there is such a folder; False for a name that no folder can have."""
    try:
        return place.is_dir()
    except OSError:
        return False


def _download(name: str, revision: str | None, what: str, hint: str) -> Path:
    """A Hub repository's folder in the cache; downloaded where it is not there whole."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow to import)
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        with suppress(LocalEntryNotFoundError):
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=list(FETCHED), local_files_only=True)
            )
            if holds_all(folder):
                return folder
        for patterns in (FETCHED, FETCHED + FETCHED_BIN):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
            if holds_all(folder):
                return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RunError(
            f"{name}: the {what} is no folder here, not whole in the Hub's cache, and could not be fetched from the "
            f"Hub ({str(error).partition(chr(10))[0].rstrip('.')}). {_by_hand(name, revision, what)}{hint}"
        ) from error
    raise RunError(
        f"{name}: neither the Hub's cache ({folder}) nor the Hub gave an adapter or a model with all its weights. "
        f"{_by_hand(name, revision, what)}{hint}"
    )


def _by_hand(name: str, revision: str | None, what: str) -> str:
    """What to do where the Hub is out of reach."""
    command = f"hf download {name}{f' --revision {revision}' if revision else ''} --local-dir DIR"
    given = " with --base DIR" if what == "base" else ""
    return f"Fetch it where there is a network (`{command}`), and give that folder{given}."


def in_cache(name: str, file: str) -> Path | None:
    """A file of a Hub repository's main revision in the cache; None where it is not there, or is no repository."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  (slow to import)
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    with suppress(HFValidationError):
        found = try_to_load_from_cache(name, file)
        return Path(found) if isinstance(found, str) else None
    return None


def cached_spelling(name: str) -> str:
    """A repository's name as the cache spells it: the Hub takes any case, the cache's folders only their own."""
    from huggingface_hub import constants  # noqa: PLC0415  (slow to import)

    wanted = f"models--{name.replace('/', '--')}"
    cache = Path(constants.HF_HUB_CACHE)
    folders = [folder.name for folder in cache.iterdir()] if cache.is_dir() else []
    if wanted in folders:
        return name
    found = next((folder for folder in sorted(folders) if folder.lower() == wanted.lower()), None)
    return found.removeprefix("models--").replace("--", "/", 1) if found else name
