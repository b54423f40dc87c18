# Two images: `penstock`, for replicas, the exporter, the command line and the example's trainer; `airflow`, for the schedules.
#   docker build --target penstock -t penstock:0.1.0 .
#   docker build --target airflow -t penstock-airflow:0.1.0 .

FROM python:3.12.11-slim-bookworm AS penstock
COPY . /opt/penstock
# Versions are those that the tests run with; of the list only what is needed is installed.
RUN pip install --no-cache-dir --constraint /opt/penstock/requirements.lock /opt/penstock \
  && useradd --uid 10001 --no-create-home penstock \
  && install -d -o 10001 /var/lib/penstock/checkpoints
# Loops are compiled on first use, and kept here.
ENV NUMBA_CACHE_DIR=/tmp/numba PYTHONUNBUFFERED=1
USER 10001
CMD ["penstock", "--help"]

FROM apache/airflow:3.3.2-python3.12 AS airflow
ENV AIRFLOW_VERSION=3.3.2
COPY . /opt/penstock
USER root
RUN install -d -o 10001 /var/lib/penstock/checkpoints && chown -R airflow /opt/penstock
USER airflow
# Named beside it, Airflow stays at its version whatever else is installed.
RUN pip install --no-cache-dir --constraint /opt/penstock/requirements.lock "apache-airflow==${AIRFLOW_VERSION}" /opt/penstock \
  && cp -r /opt/penstock/dags /opt/airflow/
ENV NUMBA_CACHE_DIR=/tmp/numba
