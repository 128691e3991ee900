# The HTTP service in C++ on the bundle that is mounted at /bundle; options of the service follow the image's name:
#   docker build -t vmoe-serve .
#   docker run --rm -p 8000:8000 -v "$PWD/mnist.vmoe:/bundle:ro" vmoe-serve --slo-ms 50 --sweep 0.2:1.05
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ cmake ninja-build python3-pip \
    libonnxruntime-dev libhwy-dev nlohmann-json3-dev libboost-dev libssl-dev libcli11-dev libstb-dev zlib1g-dev
# Debian's ONNX Runtime has headers to build with; the one that runs is the one that releases are tested with.
COPY tools/tested_versions.txt /source/tools/
RUN pip install --no-deps --target /packages -c /source/tools/tested_versions.txt onnxruntime \
    && install -D /packages/onnxruntime/capi/libonnxruntime.so.* /vmoe/lib/libonnxruntime.so
COPY pyproject.toml /source/
COPY plugins /source/plugins
RUN cmake -S /source/plugins -B /build/native -G Ninja -DVMOE_REQUIRE_ALL=ON -DVMOE_GPU=OFF \
    && cmake --build /build/native \
    && cmake --install /build/native --prefix /sdk --strip \
    && cp /sdk/lib/*.so /vmoe/lib/
RUN cmake -S /source/plugins/service -B /build/service -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=/sdk \
    -DCMAKE_INSTALL_RPATH=/vmoe/lib \
    && cmake --build /build/service \
    && cmake --install /build/service --prefix /vmoe --strip
COPY LICENSE /vmoe/licences/
RUN cd /packages && cp --parents onnxruntime/LICENSE onnxruntime/ThirdPartyNotices.txt /vmoe/licences/ \
    && cd /usr/share/doc && cp --parents libonnxruntime-dev/copyright libhwy-dev/copyright nlohmann-json3-dev/copyright \
    libcli11-dev/copyright libstb-dev/copyright /vmoe/licences/

FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends libssl3t64 libstdc++6 zlib1g && rm -rf /var/lib/apt/lists/*
COPY --from=build /vmoe /vmoe
ENV VMOE_ONNXRUNTIME=/vmoe/lib/libonnxruntime.so
USER 65534:65534
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8000"]
ENTRYPOINT ["/vmoe/bin/vmoe-serve-http", "/bundle", "--host", "0.0.0.0"]
