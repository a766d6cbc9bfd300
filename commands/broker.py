"""`roomkeeper broker`: which installation of Roomkeeper the broker belongs to."""

import typer

from workers.db import transaction
from workers.settings import SettingsError, get_settings

app = typer.Typer(help="The broker, and which installation it belongs to.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Make a group of it, even with one sub-command."""


@app.command("take-over")
def take_over() -> None:
    """Have the broker belong to this installation. Workers of the one before do not start on it any more."""
    # Not before: the help text needs neither.
    import redis

    from workers import installation, queue_lengths
    from workers.broker_errors import described

    with transaction() as connection:
        own = installation.read(connection)
    url = get_settings().broker_url.get_secret_value()
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            before = installation.take_over(client, own)
            waiting = sum(queue_lengths.of(client).values())
    except redis.RedisError as error:
        raise SettingsError(
            f"The broker does not answer ({described(error)}): nothing was changed."
        ) from error
    if before == own:
        typer.echo(f"The broker belongs to this installation already ({own}).")
        return
    typer.echo(f"The broker belongs to this installation now ({own}); before: {before or 'none'}.")
    if waiting:
        typer.echo(f"Messages in its queues, which the workers of this installation take: {waiting:,}.")
