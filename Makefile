# make demo     installs what it needs and shows the whole path on a trained checkpoint
# make report-pictures  makes the pictures of docs/report.md again, by way of a headless Chromium
# make check    lints what has changed, and runs the tests that take seconds
# make test     sets up, lints, and runs the tests of every module, in minutes
# make test-all runs the slow kinds of tests, too, which CONTRIBUTING.md lists, and measures coverage
# make hostile  does to ops, readers and exports what an attacker, a bad disk or an impatient user would, at length
# make gpu-test checks and times the GPU kernels on this machine's NVIDIA GPU; needs nvcc, PYTHON with numpy and a CUDA torch, no network
# make library  builds the native libraries again, as far as their sources changed
# make triton-server  installs a Triton server for the tests of vmoe serve, on x86-64
# make nvcc     installs CUDA's compiler for the tests on an emulated GPU, if the machine has none
# make docs     builds the documentation into build/site
# make wheel    builds wheels for Linux with glibc 2.28 or newer and for macOS into dist, and tests them
# make release  builds all files of a release from the commit that is checked out, into dist/release, and tests them; on Debian
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile
TOOLS := $(VENV)/.tools-done
NATIVE := $(VENV)/.native-done
PACKAGES := $(VENV)/.packages-done
SETUP := $(VENV)/.setup-done
IMPORTED := $(VENV)/.imported
NATIVE_SOURCES := $(shell find plugins -type f)
CXX_FILES := $(shell find plugins samples tests/cpp tests/gpu_emulator tests/on_gpu benchmarks \( -name '*.cc' -o -name '*.cu' -o -name '*.h' -o -name '*.hpp' -o -name '*.cpp' \) 2>/dev/null)
CXX_HEADERS := $(filter %.h %.hpp,$(CXX_FILES))
# The TensorRT plugin is built where this names a folder with TensorRT's headers.
TENSORRT_INCLUDE_DIR ?=
NATIVE_OPTIONS := $(if $(TENSORRT_INCLUDE_DIR),-Ccmake.define.TENSORRT_INCLUDE_DIR=$(TENSORRT_INCLUDE_DIR))

# What the native libraries need, and the Debian packages that have it.
HEADERS := onnxruntime/onnxruntime_c_api.h hwy/highway.h nlohmann/json.hpp
NATIVE_DEBIAN := g++ libonnxruntime-dev libhwy-dev nlohmann-json3-dev
# What the tests need in addition: libraries of the C++ samples, and a web server.
TEST_HEADERS := boost/beast.hpp CLI/CLI.hpp openssl/ssl.h stb/stb_image.h zlib.h
TEST_DEBIAN := libboost-dev libcli11-dev libssl-dev libstb-dev zlib1g-dev nginx-light
# What the slow tests need in addition: a compiler and an emulator for 64-bit ARM.
ARM_DEBIAN := g++-aarch64-linux-gnu qemu-user
# What makes the roots and the image that a release is tested in, and what its wheels are.
RELEASE_PROGRAMS := mmdebstrap buildah qemu-aarch64 aarch64-linux-gnu-g++
# Every build by the same CMake: another one would compile everything again.
BUILD_TOOLS := scikit-build-core cmake ninja
APT_GET := $$(test "$$(id -u)" = 0 || echo sudo) apt-get

# The wheels' compiler and tools, apart from everything else.
WHEEL_VENV := build/wheel/venv
RELEASE := dist/release
# A Triton server and its client, apart from everything else: they want an older numpy and protobuf.
TRITON_VENV := build/triton/venv
NVCC_VENV := build/nvcc
# Clients of the services, whose packages are none of the project's.
CLIENT_VENV := build/clients/venv
HAS_HEADERS := printf '\#include <%s>\n' $(HEADERS) | c++ -std=c++17 -fsyntax-only -x c++ - 2>/dev/null
HAS_VENV := $(PYTHON) -c 'import ensurepip' 2>/dev/null
INSTALL_VENV := { $(APT_GET) update -q && $(APT_GET) install -q -y python3-venv; }

.PHONY: setup library wheel release docs demo report-pictures check-report check test hostile gpu-test lint lint-python lint-native format clean

setup: $(SETUP)

# Packages download while the libraries compile.
.PHONY: parallel
parallel:
	@$(MAKE) -s $(TOOLS)
	@$(MAKE) -j $(words $(WANTED)) $(WANTED)

# The packages that the checks need.
$(SETUP): $(TOOLS) pyproject.toml
	$(BIN)/python tools/list_requirements.py dev | $(PIP_INSTALL) -r /dev/stdin
	touch $@ $(PACKAGES)

# The packages that exporting, running and reporting need: all that `make demo` installs.
$(PACKAGES): $(TOOLS) pyproject.toml
	$(BIN)/python tools/list_requirements.py export cpu images bench | $(PIP_INSTALL) -r /dev/stdin
	touch $@

$(TOOLS): pyproject.toml
	$(HAS_VENV) || $(INSTALL_VENV)
	@$(HAS_HEADERS) || $(MAKE) -s install-native-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) $(BUILD_TOOLS)
	touch $@

.PHONY: install-native-packages install-test-packages install-arm-packages install-release-packages
install-native-packages: WANTED = $(NATIVE_DEBIAN)
install-test-packages: WANTED = $(TEST_DEBIAN)
install-arm-packages: WANTED = $(ARM_DEBIAN)
install-release-packages: WANTED = mmdebstrap buildah $(TEST_DEBIAN) $(ARM_DEBIAN)
install-native-packages install-test-packages install-arm-packages install-release-packages:
	@if command -v apt-get >/dev/null; then \
		$(APT_GET) update -q; \
		for package in $(WANTED); do \
			$(APT_GET) install -q -y $$package || echo "make: no $$package; going on without what needs it"; \
		done; \
	else \
		echo "make: no apt-get here to install $(WANTED); going on without"; \
	fi

library: WANTED = $(SETUP) $(NATIVE)
library: parallel

# The package itself, with the native libraries.
$(NATIVE): $(TOOLS) $(NATIVE_SOURCES)
	$(PIP_INSTALL) --no-deps --no-build-isolation $(NATIVE_OPTIONS) -e .
	touch $@

wheel: $(WHEEL_VENV)/.done $(SETUP) $(NATIVE)
	@$(HAS_HEADERS) || $(MAKE) -s install-native-packages
	$(WHEEL_VENV)/bin/python tools/build_wheels.py dist
	VMOE_WHEELS=$(abspath dist) $(PYTEST) tests/project/test_portable_wheels.py

# The docs, too, are of the commit's time.
release: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct)
release: $(WHEEL_VENV)/.done docs
	@$(HAS_HEADERS) || $(MAKE) -s install-native-packages
	@which $(RELEASE_PROGRAMS) >/dev/null || $(MAKE) -s install-release-packages
	rm -rf $(RELEASE)
	$(WHEEL_VENV)/bin/python tools/build_release.py $(RELEASE)
	VMOE_WHEELS=$(abspath $(RELEASE)) VMOE_RELEASE=$(abspath $(RELEASE)) $(PYTEST) \
		tests/project/test_portable_wheels.py tests/project/test_release.py

$(WHEEL_VENV)/.done: tools/requirements.txt
	$(HAS_VENV) || $(INSTALL_VENV)
	test -x $(WHEEL_VENV)/bin/python || $(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-compile -r $<
	touch $@

.PHONY: triton-server
$(CLIENT_VENV)/.done: tests/client_requirements.txt | $(SETUP)
	test -x $(CLIENT_VENV)/bin/python || $(BIN)/python -m venv $(CLIENT_VENV)
	$(CLIENT_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-compile -r $<
	touch $@

triton-server: $(TRITON_VENV)/.done

$(NVCC_VENV)/.done: tests/nvcc_requirements.txt | $(SETUP)
	$(BIN)/python -m venv --clear $(NVCC_VENV)
	$(NVCC_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-compile -r $<
	touch $@

# Of nvidia-pytriton only the server is used, so that it goes without what the package asks for.
$(TRITON_VENV)/.done: tests/triton_requirements.txt | $(SETUP)
	test -x $(TRITON_VENV)/bin/python || $(BIN)/python -m venv $(TRITON_VENV)
	$(TRITON_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-compile -r $<
	$(TRITON_VENV)/bin/python -m pip install -q --disable-pip-version-check --no-compile --no-deps nvidia-pytriton==0.7.0
	touch $@

# It reads docstrings and the parsers of the commands. Without the variable, Material prints news about MkDocs 2.
docs: $(SETUP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

demo: WANTED = $(NATIVE) $(PACKAGES)
demo: parallel
	mkdir -p demo
	$(BIN)/vmoe export samples/mnist/vmoe_mnist --config samples/mnist/config.json --group 16 \
		--capacity 0.1 --capacity 0.2 --capacity 0.3 --capacity 0.5 --capacity 1.05 --capacity 2.0 --k 1 --k 2 \
		-o demo/mnist.vmoe --force
	$(BIN)/python samples/mnist/demo.py demo/mnist.vmoe --picture demo/accuracy.png
	$(BIN)/vmoe report demo/mnist.vmoe --profile c0.3-k1 --bpr --no-bpr --images samples/mnist/test_data.npz --duration 5 \
		-o demo/report.html

# The page as a phone and a screen show it, and the pictures beside it.
report-pictures: $(NATIVE) $(SETUP)
	mkdir -p demo
	$(BIN)/vmoe export samples/mnist/vmoe_mnist --capacity 0.3 --k 1 -o demo/digits.vmoe --force -q
	$(BIN)/vmoe report demo/digits.vmoe --bpr --no-bpr --pool --no-pool --images samples/mnist/test_data.npz -o demo/digits.html
	$(BIN)/python tests/support/check_report_page.py demo/digits.html --pictures demo --height 1290
	cp demo/digits-1440.png docs/report.png
	cp demo/digits-390.png docs/report_phone.png
	cp demo/digits-patches.png docs/report_patches.png
	cp demo/digits-experts.png docs/report_experts.png

# With it, tests/commands/test_report_page.py and tests/support/check_report_page.py look for faults of access, too.
check-report: $(SETUP) $(NATIVE)
	npm install --silent --no-audit --no-fund --prefix build/axe axe-core
	$(BIN)/python -m pytest tests/commands/test_report.py tests/commands/test_report_page.py

# The processes of the tests share the CPUs already: threads of torch and numpy on top would wait for one another. One process
# more than CPUs fills the waits for servers to start. What is compiled of the tests is kept, even if the machine's default differs.
PYTEST := PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder
COVERAGE := build/coverage

# Only modules with fast tests are read: the others import much.
check: WANTED = $(NATIVE) lint-python lint-native
check: parallel
	$(PYTEST) -m "fast and not slow" $(shell grep -lr 'mark\.fast' tests)

test: WANTED = $(NATIVE) lint tests-ready
test: parallel
	$(PYTEST) -m "not slow"

test-all: export VMOE_TEST_SANITIZED = 1
test-all: WANTED = $(NATIVE) lint tests-ready arm-packages $(CLIENT_VENV)/.done triton nvcc
test-all: parallel
	@$(MAKE) -s -j 2 tidy
	rm -rf $(COVERAGE)
	VMOE_TEST_COVERAGE=$(COVERAGE)/all $(PYTEST)
	@$(BIN)/python -m coverage combine -q --data-file $(COVERAGE)/all
	@$(BIN)/python -m coverage report --data-file $(COVERAGE)/all --fail-under 90 >$(COVERAGE)/table.txt; \
		status=$$?; grep TOTAL $(COVERAGE)/table.txt; exit $$status

.PHONY: test-packages tests-ready arm-packages triton nvcc
test-packages:
	@ls $(TEST_HEADERS:%=/usr/include/%) >/dev/null 2>&1 && command -v nginx >/dev/null || $(MAKE) -s install-test-packages
# Compiles what the tests run: C++ programs and, after a change of the packages or libraries, the Python modules that tests
# import, and libraries of single modules. If a step fails, the tests repeat it and show its output.
tests-ready: $(IMPORTED) | test-packages
	@PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH=benchmarks:tests $(BIN)/python tests/support/build_programs.py || true
$(IMPORTED): $(SETUP) $(NATIVE)
	@$(PYTEST) -n 0 -m "compiles and not slow" >/dev/null || true
	@touch $@
arm-packages: | test-packages
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || $(MAKE) -s install-arm-packages
triton:
	@$(MAKE) -s triton-server || echo "make: no Triton server here; going on without what needs it"
nvcc:
	@command -v nvcc >/dev/null || $(MAKE) -s $(NVCC_VENV)/.done || echo "make: no nvcc here; going on without what needs it"

hostile: export VMOE_TEST_SANITIZED = 1
hostile: $(SETUP) $(NATIVE) nvcc
	mkdir -p build/hostile
	$(BIN)/vmoe export samples/mnist/vmoe_mnist --capacity 0.3 --k 1 -o build/hostile/mnist.vmoe --force -q
	VMOE_RANDOM_CALLS=100000 $(BIN)/python -m pytest tests/op_library/test_sanitizers.py
	$(HOSTILE)/reader_mutations.py --cases 20000
	$(HOSTILE)/bundle_mutations.py --count 4000
	$(HOSTILE)/bundle_swaps.py build/hostile/mnist.vmoe --files 600 --folders 400
	$(HOSTILE)/bundle_swaps.py build/hostile/mnist.vmoe --files 600 --folders 400 --backend sdk
	$(HOSTILE)/export_kills.py --kills 170 --signals 60
	$(HOSTILE)/batch_kills.py --kills 20 --s3 10
	$(HOSTILE)/planted_faults.py
	PYTHONPATH=benchmarks:tests $(BIN)/python tests/support/planted_gpu_faults.py

HOSTILE := PYTHONPATH=tests/support $(BIN)/python tests/support

# Nothing is set up for it: a machine with a GPU may have no network.
gpu-test:
	$(PYTHON) benchmarks/gpu.py $(GPU_TEST_OPTIONS)

lint: lint-python lint-native

lint-python: $(SETUP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

lint-native: $(SETUP) $(NATIVE)
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	@test -f $(COMMANDS) || echo "make: no native library was built, so clang-tidy has nothing to check"
	@$(MAKE) -s tidy-changed

# clang-tidy reads the compiler's command lines, so it checks the libraries that were built. CUDA is nvcc's to check. Each file
# leaves a stamp, and is checked again when it or a header has changed. `make tidy` checks all files, and lint those that differ
# from TIDY_SINCE.
COMMANDS := build/native/compile_commands.json
TIDY_SINCE ?= origin/main
.PHONY: tidy tidy-changed
tidy: $(shell sed -n 's|.*"file": "$(CURDIR)/plugins/\(.*\)\.cc".*|build/tidy/\1.ok|p' $(COMMANDS) 2>/dev/null)
tidy-changed:
	@$(MAKE) -s -j 2 $$($(BIN)/python tools/changed_sources.py build/native $(TIDY_SINCE) | sed 's|plugins/|build/tidy/|g; s|\.cc|.ok|g') nothing
.PHONY: nothing
nothing: ;

build/tidy/%.ok: plugins/%.cc $(CXX_HEADERS) .clang-tidy
	@mkdir -p $(@D)
	@found=$$($(BIN)/clang-tidy -p build/native --quiet $< 2>&1) || { echo "$$found"; exit 1; }
	@touch $@

format: $(SETUP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
