# llama-router on llama.cpp's own CUDA image:
#
#   docker build -t llama-router .
#   docker run --gpus all -p 8000:8000 -e API_KEY -v "$PWD/models:/app/models:ro" llama-router
#
# Another build of llama.cpp: --build-arg LLAMA_CPP_TAG=server-cuda-b… (or `server` for machines without a GPU).
ARG LLAMA_CPP_TAG=server-cuda-b11459
FROM ghcr.io/ggml-org/llama.cpp:${LLAMA_CPP_TAG}

RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
         echo "llama-router needs Python 3.11 or newer; the base image has $(python3 --version)." \
              "Choose a LLAMA_CPP_TAG that is built on Ubuntu 24.04 or newer." >&2; \
         exit 1; \
       fi \
    && test -x /app/llama-server \
    && python3 -m venv /opt/venv

COPY requirements.txt /opt/llama-router/
# Wheels only: nothing is compiled, and no set-up code of a package runs.
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
      -r /opt/llama-router/requirements.txt

COPY run.py LICENSE /opt/llama-router/
COPY router/ /opt/llama-router/router/
COPY scripts/docker-entrypoint.sh /opt/llama-router/

# 10001 is nobody on the host. An empty configuration serves every *.gguf in /app/models; mount yours over it.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app/.llama-router --shell /usr/sbin/nologin router \
    && mkdir -p /app/models \
    && install --directory --owner=router --group=router --mode=0750 /app/.llama-router \
    && echo '{}' > /app/config.json \
    && /opt/venv/bin/python -m compileall -q /opt/llama-router/router

# LLAMA_ARG_HOST: the base image opens llama-server to the network; here it is behind the router.
# LD_LIBRARY_PATH: some builds of the base image do not find their own libraries from another directory.
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONPATH=/opt/llama-router \
    PYTHONUNBUFFERED=1 \
    LD_LIBRARY_PATH=/app${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
    LLAMA_ARG_HOST=127.0.0.1 \
    LLAMA_SERVER_PATH=/app/llama-server \
    BASE_MODELS_PATH=/app/models \
    ROUTER_HOST=0.0.0.0 \
    ROUTER_PORT=8000

# config.json is looked for here, and the state directory of the default configuration lies here.
WORKDIR /app
VOLUME /app/.llama-router
USER router
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD curl --fail --silent --show-error --noproxy '*' --max-time 4 -o /dev/null "http://127.0.0.1:${ROUTER_PORT}/health"
# Through sh, so that a checkout without the executable bit (Windows) builds an image that starts.
ENTRYPOINT ["/bin/sh", "/opt/llama-router/docker-entrypoint.sh"]
CMD ["serve"]
