# fedjax-med on CPUs: docker build -t fedjax-med . ; docs/installation.md has more.
FROM python:3.13.7-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/fedjax_med
ENV PATH=/opt/fedjax_med/bin:$PATH
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY LICENSE README.md pyproject.toml ./
COPY fedjax_med fedjax_med
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
    && pip install --no-cache-dir --no-index --no-deps /dist/*.whl

FROM python:3.13.7-slim-bookworm
COPY --from=build /opt/fedjax_med /opt/fedjax_med
RUN useradd --create-home --uid 1000 fedjax_med
ENV PATH=/opt/fedjax_med/bin:$PATH
USER fedjax_med
WORKDIR /home/fedjax_med
ENTRYPOINT ["fedjax-med"]
CMD ["help"]
