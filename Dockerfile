FROM python:3.12-slim
WORKDIR /opt/penstock
COPY . .
RUN pip install --no-cache-dir -r requirements.lock && pip install --no-cache-dir --no-deps .
USER nobody
ENV NUMBA_CACHE_DIR=/tmp/numba
CMD ["penstock", "--help"]
