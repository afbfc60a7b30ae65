# The dispatcher, without torch. Build from the root of the repository:
#   docker build -f producers/dispatcher.Dockerfile -t tristream-dispatcher .
# More packages, such as the file system of the store: --build-arg EXTRA_PACKAGES=s3fs
FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /opt/tristream
COPY constraints.txt ./
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY core core
COPY producers producers
COPY verifiers verifiers
COPY learner learner
COPY monitoring monitoring
COPY deploy deploy
ARG EXTRA_PACKAGES=""
# hadolint ignore=SC2086
RUN /opt/tristream/bin/pip install --no-cache-dir --constraint constraints.txt ".[dispatcher]" $EXTRA_PACKAGES

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home tristream
COPY --from=build /opt/tristream /opt/tristream
ENV PATH=/opt/tristream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /home/tristream
ENTRYPOINT ["tristream"]
CMD ["dispatch", "--run", "/run/tristream/run.toml"]
