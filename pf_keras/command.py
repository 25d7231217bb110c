"""The command line as a Python function."""

from pf_keras.errors import UserError


def run(mode: str, workdir: str = "", config: str = "", settings: dict[str, object] | None = None, **options: object) -> dict:
    """Do what `pf-keras --mode=MODE` does, in this process. Progress goes to standard error as there.

    Args:
        mode: `finetune`, `predict`, ... `pf-keras --help` lists them.
        workdir: the directory of the run, default `runs/MODE`.
        config: a shipped config, or a Python file.
        settings: fields of the config to change, such as `{"finetune.epochs": 12}`.
        **options: the other flags by name, such as `data="folder:photos"` and `init="photos64"`. A list is written with commas.

    Returns:
        The result, which the command line prints as JSON.

    Raises:
        UserError: what the command line would refuse.
    """
    from absl import flags

    from pf_keras.cli import execute

    named = {"mode": mode, **({"workdir": workdir} if workdir else {}), **({"config": config} if config else {}), **options}
    line = [f"--{name}={_text(value)}" for name, value in named.items() if value is not None]
    line += [f"--config.{name}={value}" for name, value in (settings or {}).items()]
    try:
        return execute(["pf-keras", *line])
    except flags.Error as error:
        raise UserError(str(error)) from error


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
