# Two stages: the first installs the locked dependencies, the second has only what runs.
FROM python:3.11-slim AS build
# The system's certificate authorities, so that a company's own one works when the base image has it.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_CERT=/etc/ssl/certs/ca-certificates.crt
RUN python -m venv /opt/bursar
COPY requirements.txt .
RUN /opt/bursar/bin/pip install --quiet --require-hashes -r requirements.txt \
    && /opt/bursar/bin/pip uninstall --quiet --yes pip setuptools \
    && find /opt/bursar -name __pycache__ -prune -exec rm -rf {} +
COPY app /opt/bursar/src/app
RUN /opt/bursar/bin/python -m compileall -q /opt/bursar/lib /opt/bursar/src

FROM python:3.11-slim
RUN groupadd --gid 10001 bursar \
    && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin bursar \
    && install -d -o bursar -g bursar -m 0700 /data
COPY --from=build /opt/bursar /opt/bursar
ENV PATH=/opt/bursar/bin:$PATH \
    PYTHONPATH=/opt/bursar/src \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BURSAR_HOST=0.0.0.0 \
    BURSAR_DATA_DIR=/data
# No VOLUME: compose names one. An anonymous one would be left behind by every replica, which keeps nothing here.
WORKDIR /data
USER bursar
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 \
    CMD ["python", "-m", "app", "healthcheck"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
