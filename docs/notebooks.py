"""Runs the notebooks of `examples/notebooks`, and makes pages of them.

They are kept as Python with cells in the percent format, which any editor and
any diff can show. A cell that fails fails the build. What a notebook showed is
kept in `build/notebooks` until it or the package changes.
"""

import base64
import concurrent.futures
import hashlib
import os
import pathlib
import subprocess
import tempfile

import jupytext
import nbclient
import nbformat
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from traitlets.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ROOT / "examples" / "notebooks"
KEPT = ROOT / "build" / "notebooks"
# What the notebooks tell their readers to install, on one thread each.
VARIABLES = {
    "KERAS_BACKEND": "tensorflow",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}
SECONDS = 600


def on_files(files, config, **kwargs):
    """Called by MkDocs with all files: adds a page for each notebook."""
    paths = sorted(SOURCES.glob("*.py"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        notebooks = list(pool.map(executed, paths))
    for path, notebook in zip(paths, notebooks, strict=True):
        for name, content in page(path.stem, notebook).items():
            uri = f"notebooks/{name}"
            files.append(File.generated(config, uri, content=content))
    return files


def executed(path):
    """The notebook with what it puts out."""
    kept = KEPT / f"{path.stem}-{key(path)}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    notebook = jupytext.read(path)
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            config=through(f"{folder}/kernel"),
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            timeout=SECONDS,
            coalesce_streams=True,
        )
        try:
            client.execute(
                env={**os.environ, **VARIABLES}, stderr=subprocess.DEVNULL
            )
        except nbclient.exceptions.CellExecutionError as error:
            raise PluginError(f"{path} failed:\n{error}") from error
    KEPT.mkdir(parents=True, exist_ok=True)
    new = kept.with_name(f"new-{kept.name}")
    nbformat.write(notebook, new)
    new.replace(kept)
    return notebook


def through(sockets):
    """A kernel is reached through files, and not over the network."""
    return Config(KernelManager={"transport": "ipc", "ip": sockets})


def key(path):
    """Changes with the notebook and with the package."""
    digest = hashlib.sha256(path.read_bytes())
    for source in sorted((ROOT / "keras_gates").rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def page(name, notebook):
    """The files of a notebook's page: Markdown, pictures, the notebook."""
    files, parts = {}, []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            words, picture = shown(output)
            if picture:
                file = f"{name}-{len(files) + 1}.png"
                files[file] = picture
                drawn = cell.source.splitlines()[-1].removeprefix("_ = ")
                parts.append(f"![What {drawn} draws]({file})")
            elif words:
                parts.append(f"```text\n{words.strip()}\n```")
    parts.append(f"[Download this notebook]({name}.ipynb)")
    files[f"{name}.md"] = "\n\n".join(parts)
    files[f"{name}.ipynb"] = nbformat.writes(notebook)
    return files


def shown(output):
    """The text of an output, or else the bytes of its picture."""
    if output.output_type == "stream":
        # Backends log to the other stream.
        return (output.text if output.name == "stdout" else ""), b""
    words = output.data.get("text/plain", "")
    picture = base64.b64decode(output.data.get("image/png", ""))
    if words.startswith("<Figure") and not picture:
        raise PluginError(f"A notebook shows no picture for {words}")
    return words, picture
