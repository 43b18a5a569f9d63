#!/bin/bash
# Installs the Debian 12 packages that building, testing and showing Octavo needs. Idempotent: with everything in place
# it asks apt for nothing. Runs as root, or through sudo.
set -euo pipefail

packages=(
  # build
  g++ cmake ninja-build ccache pkg-config ca-certificates
  # RPC and messages; the CMake files of gRPC look for OpenSSL, c-ares, re2 and zlib
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libprotoc-dev libabsl-dev libssl-dev
  libc-ares-dev libre2-dev zlib1g-dev
  # base, metrics, HTTP client, state, collectives, text, data, command line
  libfmt-dev libspdlog-dev libxxhash-dev prometheus-cpp-dev libcurl4-openssl-dev libsqlite3-dev libgloo-dev
  libpcre2-dev libutf8proc-dev nlohmann-json3-dev libyaml-cpp-dev libcli11-dev
  # tests and checks
  libgtest-dev libgmock-dev libbenchmark-dev clang-16 libclang-rt-16-dev clang-format clang-tidy prometheus
  # what vLLM's build for CPUs links to and compiles against (tests/oracle)
  libnuma1 python3-dev
  # text for perplexity
  debian-handbook
  # scripts
  python3 python3-venv python3-pip python3-grpcio python3-protobuf curl unzip util-linux procps iproute2
)

if [[ ! -r /etc/debian_version ]]; then
  echo "install.sh: this is not Debian; the packages are named as in Debian 12: ${packages[*]}" >&2
  exit 78
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "install.sh: all ${#packages[@]} packages are installed"
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install.sh: run this as root, or install sudo; missing: ${missing[*]}" >&2
    exit 77
  fi
  as_root=(sudo)
fi

echo "install.sh: installing ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"

# Prometheus is here for its binaries (tests scrape with it); nobody asked for a monitoring service on this machine.
if [[ " ${missing[*]} " == *" prometheus "* && -d /run/systemd/system ]]; then
  "${as_root[@]}" systemctl disable --now prometheus.service || true
fi
echo "install.sh: done"
