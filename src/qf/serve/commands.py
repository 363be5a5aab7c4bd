"""The commands `qf serve` and `qf keys`, for `qf.cli`; they print, as it does.

Imports the server's packages when a command runs: `qf` works without them.
"""

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from qf.errors import QFError

NEEDS = ("fastapi", "prometheus_client", "uvicorn")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    from qf.cli import opening, options, say

    @app.command(
        epilog=options.example(
            "qf serve",
            "qf keys add alice --space alice && qf serve --host 0.0.0.0",
        )
    )
    @options.choosing("memory", "layer", "systems", "tools", "thinking")
    def serve(
        host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
        port: Annotated[
            int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")
        ] = 8000,
        learn_from_chat: Annotated[
            bool,
            typer.Option("--learn-from-chat", help='Learn from turns: "Remember that ...".'),
        ] = False,
        rate: Annotated[
            int, typer.Option("--rate", min=0, help="Requests a minute of each caller; 0: any.")
        ] = 0,
        max_facts: Annotated[
            int, typer.Option("--max-facts", min=1, help="Facts that a space may hold.")
        ] = 10_000,
        max_tokens: Annotated[
            int, typer.Option("--max-tokens", min=1, help="Tokens that a reply may have.")
        ] = 1024,
        timeout: Annotated[
            float, typer.Option("--timeout", min=1, help="Seconds that a reply may take.")
        ] = 300,
        *,
        choice: options.Choice,
        as_json: options.Json = False,
    ) -> None:
        """Serve the model: the OpenAI API, routes to teach it, and a page at /."""
        _check_installed()
        from qf.serve import server
        from qf.serve.keys import Keys
        from qf.serve.serving import Settings

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        described = opening.read_tools(choice.tools)
        directory = server.memory_of(choice.model, choice.memory)
        public = server.check_address(host, Keys(directory))
        bound = server.listening(host, port)  # a port in use is told before the model is loaded
        with say.progress("Loading the model ..."):
            opening.quieten()
            root = server.load_base(
                directory,
                choice.model,
                layer=choice.layer,
                system=choice.systems or None,
                tools=described,
                thinking=choice.thinking,
                **choice.loading(),
            )
        settings = Settings(
            learn_from_chat=learn_from_chat,
            public=public,
            rate=rate,
            facts_per_space=max_facts,
            answer_tokens=max_tokens,
            timeout=timeout,
        )
        serving = server.serving_for(root, directory, settings)
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        if as_json:
            say.say_json({"url": url, "model": root.name, "memory": str(directory)})
        else:
            say.say(f"{root.name} answers at {url} (API: {url}/v1). Ctrl-C ends it.")
        sys.stdout.flush()
        server.serve(serving, bound)

    keys = typer.Typer(help="Keys of `qf serve`: who may do what in which space.")
    app.add_typer(keys, name="keys", no_args_is_help=True)

    def kept(model: str | None, memory: Path | None) -> Any:
        _check_installed()
        from qf.serve.keys import Keys
        from qf.serve.server import memory_of

        return Keys(memory_of(model, memory))

    @keys.command(
        epilog=options.example(
            "qf keys add alice --space alice",
            "qf keys add reader --space team --scope chat",
            "qf keys add root --scope admin",
        )
    )
    def add(
        name: Annotated[str, typer.Argument(help="Whose key it is, for people to read.")],
        space: Annotated[
            list[str] | None, typer.Option("--space", help="Space that it opens; may be repeated.")
        ] = None,
        scope: Annotated[
            list[str] | None,
            typer.Option("--scope", help="chat, teach or admin; default: chat and teach."),
        ] = None,
        model: options.ModelName = None,
        memory: options.MemoryDir = None,
        as_json: options.Json = False,
    ) -> None:
        """Make a key and print it, once: only its hash is kept."""
        key, text = kept(model, memory).add(name, space or [], scope or ["chat", "teach"])
        if as_json:
            say.say_json({**_shown(key), "key": text})
        else:
            say.say(text)

    @keys.command("list", epilog=options.example("qf keys list"))
    def list_(
        model: options.ModelName = None,
        memory: options.MemoryDir = None,
        as_json: options.Json = False,
    ) -> None:
        """List the keys, without what would open anything."""
        found = [_shown(key) for key in kept(model, memory).all()]
        if as_json:
            say.say_json(found)
            return
        for key in found:
            spaces, scopes = ",".join(key["spaces"]) or "all", ",".join(key["scopes"])
            say.say(f"{key['id']}  {key['name']}  {spaces}  {scopes}  {key['created']}")

    @keys.command(epilog=options.example("qf keys revoke 1a2b3c4d"))
    def revoke(
        key_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, from `qf keys list`.")],
        model: options.ModelName = None,
        memory: options.MemoryDir = None,
        as_json: options.Json = False,
    ) -> None:
        """Let a key count no more, at once, in a server that runs as well."""
        gone = kept(model, memory).revoke(key_id)
        if as_json:
            say.say_json({**_shown(gone), "revoked": True})
        else:
            say.say(f"Revoked: {gone.name} ({gone.id}).")


def _shown(key: Any) -> dict[str, Any]:
    """A key without its hash."""
    return {
        "id": key.id,
        "name": key.name,
        "spaces": list(key.spaces),
        "scopes": list(key.scopes),
        "created": key.created,
    }


def _check_installed() -> None:
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise QFError(f"The server needs {' and '.join(missing)}: run pip install 'qf[serve]'.")
