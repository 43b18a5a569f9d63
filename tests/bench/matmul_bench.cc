// Products of one thread over what its multiply-add units give (kernels/probe.h; four times that
// for INT8), by instruction set, weight type, rows and shape. 256 rows: a chunk of a prompt,
// weights of a few megabytes; 32 and 8: steps that decode, weights of 128 million numbers, which
// come from memory. Probe and product alternate; a line gives medians of the rounds.
//   matmul_bench [rounds]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/tensor/bare/fp_env.h"
#include "kernels/matmul.h"
#include "kernels/probe.h"

namespace octavo {
namespace {

// What worker/runner asks of a kernel at once (Workspace).
constexpr int64_t kTileRows = 64;
constexpr int64_t kTileGroups = 4;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// FLOP/s of the probe over some 30 ms.
double Probe(Isa isa) {
  const ProbeOps& ops = ProbeOpsFor(isa);
  constexpr uint64_t kRounds = 2'000'000;
  const double start = Now();
  volatile float sink = ops.multiply_add(kRounds);
  static_cast<void>(sink);
  return static_cast<double>(ops.flops_per_round * kRounds) / (Now() - start);
}

struct Shape {
  int64_t channels, k;
};

const char* NameOf(WeightType type) {
  return type == WeightType::kBf16 ? "bf16" : type == WeightType::kFp8 ? "fp8" : "int8";
}

void Measure(Isa isa, WeightType type, int64_t rows, Shape shape, int rounds) {
  const MatmulOps& ops = MatmulOpsFor(isa);
  PackedWeights weights{type, shape.channels / kTileChannels, shape.k / kTileDepth, nullptr,
                        nullptr};
  // Codes and BF16 values of small numbers: none is a NaN or a denormal.
  std::vector<std::byte> storage(weights.bytes() + 64);
  for (size_t i = 0; i < storage.size(); ++i) storage[i] = static_cast<std::byte>(0x30 + i % 7);
  const size_t past = reinterpret_cast<uintptr_t>(storage.data()) % 64;
  weights.tiles = storage.data() + (64 - past) % 64;
  const std::vector<int32_t> channel_sums(static_cast<size_t>(shape.channels));
  weights.channel_sums = channel_sums.data();
  const std::vector<float> x(static_cast<size_t>(rows * shape.k), 0.5f);
  const std::vector<int8_t> codes(static_cast<size_t>(rows * shape.k), 3);
  std::vector<float> sums(static_cast<size_t>(kTileRows * kTileGroups * 16));
  std::vector<int32_t> exact(sums.size());
  std::vector<double> probes, products;
  for (int round = 0; round < rounds; ++round) {
    probes.push_back(Probe(isa));
    const double start = Now();
    for (int64_t group = 0; group < weights.group_count; group += kTileGroups) {
      for (int64_t row = 0; row < rows; row += kTileRows) {
        const MatmulPart tile{std::min(kTileRows, rows - row), group, group + kTileGroups, 0,
                              weights.block_count};
        if (type == WeightType::kInt8) {
          ops.sum_int8(weights, tile, codes.data() + row * shape.k, shape.k, exact.data(),
                       kTileGroups * 16);
        } else {
          ops.sum(weights, tile, x.data() + row * shape.k, shape.k, sums.data(), kTileGroups * 16);
        }
      }
    }
    products.push_back(2.0 * static_cast<double>(rows * shape.channels * shape.k) /
                       (Now() - start));
  }
  const double probe = Median(probes) * (type == WeightType::kInt8 ? 4 : 1);
  const double product = Median(products);
  std::printf("%-7s %-4s %3ld rows  %6ld x %5ld  product %6.1f GOP/s  probe %6.1f  ratio %.2f\n",
              Name(isa).data(), NameOf(type), rows, shape.channels, shape.k, product * 1e-9,
              probe * 1e-9, product / probe);
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  using octavo::Isa;
  const octavo::FpEnv env;
  const int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 9;
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (!octavo::IsSupported(isa)) continue;
    for (const auto type :
         {octavo::WeightType::kBf16, octavo::WeightType::kFp8, octavo::WeightType::kInt8}) {
      for (const octavo::Shape shape : {octavo::Shape{2048, 2048}, {5632, 2048}, {2048, 5632}}) {
        octavo::Measure(isa, type, 256, shape, rounds);
      }
      for (const int64_t rows : {32, 8}) octavo::Measure(isa, type, rows, {65536, 2048}, rounds);
    }
  }
  return 0;
}
