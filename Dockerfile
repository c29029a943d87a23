# The page of `mtkd-cd demo`, and every other command. See docs/demo.md.
#
#   docker build -t mtkd-cd .
#   docker run --rm -p 7860:7860 -v "$PWD:/work:ro" mtkd-cd
#
# For a GPU, another build of torch: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=torch==2.13.0

# OpenCV needs libGL and GLib, rasterio's wheels need expat.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libexpat1 libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# hadolint ignore=DL3013
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" "${TORCH}"

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mtkd_cd ./mtkd_cd
# The bounds are in pyproject.toml.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[demo]' && useradd --create-home --uid 10001 page

USER 10001
# Where your models are mounted; what `make demo` left there is served without an argument.
WORKDIR /work
ENV PYTHONUNBUFFERED=1
EXPOSE 7860
HEALTHCHECK --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860', timeout=5)"]
ENTRYPOINT ["mtkd-cd"]
CMD ["demo", "--host", "0.0.0.0"]
