# syntax=docker/dockerfile:1
# The image of every program of the platform: `roomkeeper` is its entrypoint, the command says which program.

FROM python:3.11-slim AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

# First what changes rarely, so that a change of our code does not install everything anew.
COPY requirements.lock ./
RUN python -m venv /opt/roomkeeper \
    && /opt/roomkeeper/bin/pip install --require-hashes --only-binary=:all: -r requirements.lock

# What builds the wheel is pinned too, in the other lock, and stays in this stage.
COPY requirements-dev.lock ./
RUN awk '/^[a-z]/ { keep = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' \
        requirements-dev.lock > build.lock \
    && python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary=:all: -r build.lock

COPY pyproject.toml README.md beat_schedule.py ./
COPY commands/ commands/
COPY workers/ workers/
COPY tasks/ tasks/
COPY models/ models/
COPY migrations/ migrations/
COPY stack/ stack/
COPY roomkeeper/ roomkeeper/
RUN /opt/build/bin/python -m hatchling build -t wheel -d /wheel \
    && /opt/roomkeeper/bin/pip install --no-deps /wheel/*.whl


FROM python:3.11-slim

# By number, so that a volume's owner means the same in every container and on the host.
RUN groupadd --gid 10001 roomkeeper \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/roomkeeper \
        --shell /usr/sbin/nologin roomkeeper \
    # A new volume takes the owner of the directory that it is mounted on.
    && install -d -o roomkeeper -g roomkeeper /var/lib/roomkeeper \
    # Set-group-ID and group-writable: API services in group 10001 and the workers share what either writes.
    && install -d -o roomkeeper -g roomkeeper -m 2775 /var/lib/roomkeeper/storage \
    && install -d -o roomkeeper -g roomkeeper -m 0700 /var/lib/roomkeeper/quarantine \
    && install -d -o roomkeeper -g roomkeeper -m 0700 /var/lib/roomkeeper/archive

COPY --from=build /opt/roomkeeper /opt/roomkeeper

ENV PATH=/opt/roomkeeper/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/roomkeeper
USER 10001:10001

ENTRYPOINT ["roomkeeper"]
CMD ["--help"]
