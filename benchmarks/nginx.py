"""nginx as a plain reverse proxy: one worker, no log, nothing buffered."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.contenders import Contender, free_port, nginx_found, started, wait_for_port
from benchmarks.load import Target
from benchmarks.machine import Cores
from benchmarks.pinned import pinned

# Documents go over kept upstream connections. Streams cannot: the upstream closes after each of them.
_CONFIG = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    proxy_http_version 1.1;
    proxy_buffering off;
    upstream kept {{
        server 127.0.0.1:{upstream};
        keepalive 128;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{documents} backlog=4096;
        location / {{
            proxy_pass http://kept;
            proxy_set_header Connection "";
        }}
    }}
    server {{
        listen 127.0.0.1:{streams} backlog=4096;
        location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(cores: Cores, folder: Path, upstream_port: int) -> Iterator[Contender | None]:
    """None where it is not installed."""
    program = nginx_found()
    if program is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    documents, streams = free_port(), free_port()
    config = folder / "nginx.conf"
    ports = {"documents": documents, "streams": streams, "upstream": upstream_port}
    config.write_text(_CONFIG.format(folder=folder, **ports), encoding="utf-8")
    command = pinned(cores.relay, program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config))
    with started(command) as process:
        wait_for_port(streams, process)
        yield Contender("nginx", Target(documents), Target(streams), _worker(process.pid))


def _worker(master: int) -> psutil.Process:
    deadline = time.monotonic() + 5
    while not (children := psutil.Process(master).children()):
        if time.monotonic() > deadline:
            raise TimeoutError("nginx has started no worker")
        time.sleep(0.02)
    return children[0]
