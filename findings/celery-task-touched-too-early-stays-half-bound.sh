#!/bin/sh
# Celery binds a task to its app at the first look at any of its attributes, and marks it as bound before it reads
# the configuration. If that cannot be read just then (a variable that is set a moment later, say), the error
# passes, and the task stays half-bound for the rest of the process: attributes answer, the configuration is
# whole by then, but a call ends with "'NoneType' object has no attribute 'push'". Tools that look at a module's
# names do so: pytest does, while it collects tests.
#
# Needs python3 with venv and pip.
# Prints versions and what was seen; exits with 1 if it is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check celery==5.6.3
cd "$folder"
cat > configuration.py <<'END'
import os

broker_url = os.environ["BROKER"]
END
cat > look.py <<'END'
import os
import sys

import celery

app = celery.Celery("app")
app.config_from_object("configuration")


@app.task
def add(a, b):
    return a + b


def seen(act):
    try:
        return repr(act())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


early = seen(lambda: add.rate_limit)
os.environ["BROKER"] = "memory://"
later = seen(lambda: add.rate_limit)
broker = app.conf.broker_url
called = seen(lambda: add(1, 2))
applied = seen(lambda: add.apply((1, 2)).get())
print(f"celery {celery.__version__}, Python {sys.version.split()[0]}")
print(f"  looked at too early:            {early}")
print(f"  looked at later:                {later}; the configuration says {broker}")
print(f"  called:                         {called}")
print(f"  applied:                        {applied}")
sys.exit(not ("Error" not in later and broker == "memory://" and "NoneType" in called and "NoneType" in applied))
END
"$folder/venv/bin/python" look.py
