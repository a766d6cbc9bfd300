"""Scripts that run on the broker, also when its memory is full.

A full broker refuses commands that may take memory. These here move what is there already, or note what was
just taken: without them a full broker could not empty itself.
"""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from workers.broker_errors import REFUSALS

_ALLOWED = "#!lua flags=allow-oom\n"


class Script:
    """A script, called with a client, the keys that it touches, and its arguments."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __call__(self, client: "Redis", keys: Sequence[str], args: Sequence[str | bytes | float]) -> Any:
        """Run it, atomically.

        Raises:
            OutOfMemoryError: memory is full, and the server is too old to make an exception: Redis before 7.
            RedisError: the server refuses, or does not answer.
        """
        try:
            return _run(client, _ALLOWED + self._text, keys, args)
        except REFUSALS:
            raise
        except ResponseError:
            # A server that does not know such a first line; each says so in its own words. If that was not
            # it, the same happens again.
            pass
        return _run(client, self._text, keys, args)


def _run(client: "Redis", text: str, keys: Sequence[str], args: Sequence[str | bytes | float]) -> Any:
    # What redis-py's `register_script` does, but for a new object with a new hash at each message.
    digest = _digest(text)
    try:
        return client.evalsha(digest, len(keys), *keys, *args)
    except NoScriptError:
        client.script_load(text)
        return client.evalsha(digest, len(keys), *keys, *args)


@cache
def _digest(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


#: Note a message that was taken. Keys: index, notes. Arguments: moment, tag, note.
NOTE = Script("""
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
""")

#: Give the notes of those that are still held a new moment. Keys: index. Arguments: moment, tags.
REFRESH = Script("""
for number = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', ARGV[1], ARGV[number]) end
""")

#: Put a message back, if its note is still there: two that try do it once. Pushed first: a list that cannot
#: be pushed to ends the script. Keys: index, notes, lists. Arguments: tag, LPUSH or RPUSH, message.
RESTORE = Script("""
local noted = redis.call('HEXISTS', KEYS[2], ARGV[1])
if noted == 1 then
  for number = 3, #KEYS do redis.call(ARGV[2], KEYS[number], ARGV[3]) end
  redis.call('HDEL', KEYS[2], ARGV[1])
end
redis.call('ZREM', KEYS[1], ARGV[1])
return noted
""")

#: Put something into a list. Keys: list. Arguments: LPUSH or RPUSH, item.
PUSH = Script("redis.call(ARGV[1], KEYS[1], ARGV[2])")

#: Move an item, if it is there, from the end of one list to the beginning of another. Keys: from, to.
#: Arguments: item.
MOVE_LAST = Script("""
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[1]) end
""")

#: Move an item, if it is there, from the end of one list to the beginning of another, in another form. Keys:
#: from, to. Arguments: item, its other form.
EXCHANGE = Script("""
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[2]) end
""")

#: Note in the index whatever is not there: a note that is not can never be restored. Keys: index, notes.
#: Arguments: moment.
REINDEX = Script("""
for _, tag in ipairs(redis.call('HKEYS', KEYS[2])) do
  redis.call('ZADD', KEYS[1], 'NX', ARGV[1], tag)
end
""")
