# The producer with vLLM, for NVIDIA GPUs. Build from the root of the repository:
#   docker build -f producers/vllm.Dockerfile -t tristream-producer-vllm .
# More packages, such as the file system of the store: --build-arg EXTRA_PACKAGES=s3fs
FROM python:3.11-slim AS build
WORKDIR /source
RUN python -m venv /opt/tristream
COPY constraints-vllm.txt ./
RUN /opt/tristream/bin/pip install --no-cache-dir --constraint constraints-vllm.txt vllm==0.32.0
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
RUN /opt/tristream/bin/pip install --no-cache-dir --constraint constraints-vllm.txt ".[producer-vllm]" $EXTRA_PACKAGES

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home tristream
# Triton, which vLLM compiles kernels with, needs a C compiler where it runs.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/tristream /opt/tristream
# TOKENIZERS_PARALLELISM is no secret.
# hadolint ignore=DL3064
ENV PATH=/opt/tristream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    TOKENIZERS_PARALLELISM=false
USER 10001
WORKDIR /home/tristream
ENTRYPOINT ["tristream"]
CMD ["produce", "--run", "/run/tristream/run.toml"]
