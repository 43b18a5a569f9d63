// Casts and maxima, in bytes of source per second of processor time, beside the memory read loop
// that bounds them. `cast_bench --benchmark_filter=bf16`.

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/fp_env.h"
#include "kernels/probe.h"
#include "kernels/quantize.h"
#include "kernels/quantize_activation.h"
#include "worker/quant/observer.h"

namespace octavo {
namespace {

constexpr size_t kColumns = 4096;

// Rows of normal values; 64 MiB of them do not fit a core's own caches, 32 KiB do.
std::vector<char> MakeRows(SourceType type, size_t rows) {
  std::vector<char> bytes(rows * kColumns * ByteSize(type));
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (size_t i = 0; i < rows * kColumns; ++i) {
    uint32_t bits = BitsOf(i < (size_t{1} << 20) ? normal(random) : 0.0f);
    if (i >= (size_t{1} << 20)) {
      const size_t size = ByteSize(type);
      std::memcpy(bytes.data() + i * size, bytes.data() + (i - (size_t{1} << 20)) * size, size);
      continue;
    }
    if (type == SourceType::kBf16) bits = Bf16FromF32(FloatFromBits(bits));
    if (type == SourceType::kF16) bits = F16FromF32(FloatFromBits(bits));
    std::memcpy(bytes.data() + i * ByteSize(type), &bits, ByteSize(type));
  }
  return bytes;
}

void BM_Read(benchmark::State& state, Isa isa) {
  const std::vector<char> data(64 << 20, 1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(ProbeOpsFor(isa).read_streams(data.data(), data.size()));
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * data.size()));
}

void BM_Amax(benchmark::State& state, Isa isa, SourceType type, size_t rows) {
  const std::vector<char> source = MakeRows(type, rows);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        QuantizeOpsFor(isa).amax(source.data(), type, source.size() / ByteSize(type)));
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * source.size()));
}

// As the quantizer does it: per row, maximum and cast; scales per channel, or per 128 columns.
void BM_Cast(benchmark::State& state, Isa isa, SourceType type, CodeType code, size_t group,
             size_t rows) {
  FpEnv env;
  const std::vector<char> source = MakeRows(type, rows);
  std::vector<uint8_t> codes(rows * kColumns);
  const QuantizeOps& ops = QuantizeOpsFor(isa);
  const CastRule rule = {code, -127, Quotient::kExact};
  std::vector<float> scales(kColumns / group);
  for (auto _ : state) {
    for (size_t row = 0; row < rows; ++row) {
      const char* at = source.data() + row * kColumns * ByteSize(type);
      const float scale =
          WeightScale(ops.amax(at, type, kColumns), CodeMax(code), SourceType::kBf16);
      for (float& each : scales) each = scale;
      CastFigures figures;
      ops.cast_row(at, type, kColumns, scales.data(), group, rule, codes.data() + row * kColumns,
                   &figures);
      benchmark::DoNotOptimize(figures);
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * source.size()));
}

void BM_GridErrors(benchmark::State& state, Isa isa, CodeType code) {
  FpEnv env;
  const std::vector<char> source = MakeRows(SourceType::kBf16, 4);
  std::vector<float> scales;
  for (int i = 0; i < 20; ++i) scales.push_back(0.08f * (1 - 0.01f * i) / CodeMax(code));
  double errors[20];
  for (auto _ : state) {
    QuantizeOpsFor(isa).grid_errors_row(source.data(), SourceType::kBf16, 4 * kColumns,
                                        scales.data(), 20, {code, -127, Quotient::kExact}, errors);
    benchmark::DoNotOptimize(errors);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * source.size()));
}

void BM_Activation(benchmark::State& state, Isa isa, bool groups) {
  FpEnv env;
  const std::vector<char> source = MakeRows(SourceType::kBf16, 4);
  const auto* x = reinterpret_cast<const uint16_t*>(source.data());
  std::vector<uint16_t> values(4 * kColumns);
  std::vector<float> scales(4 * kColumns / 128);
  const QuantizeActivationOps& ops = QuantizeActivationOpsFor(isa);
  for (auto _ : state) {
    if (groups) {
      benchmark::DoNotOptimize(ops.fp8_groups_bf16(x, 4 * kColumns, scales.data(), values.data()));
    } else {
      const float scale = Fp8DynamicScale(ops.amax(x, 4 * kColumns));
      ops.fp8_divide_bf16(x, 4 * kColumns, scale, values.data());
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * source.size()));
}

// What calibration adds to a layer, per value that it looks at.
void BM_Observe(benchmark::State& state, Isa isa, v1::Observer kind, size_t rows) {
  const std::vector<char> source = MakeRows(SourceType::kBf16, rows);
  const auto* x = reinterpret_cast<const uint16_t*>(source.data());
  PointObserver observer(kind, isa);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        observer.Add(x, static_cast<int64_t>(rows), kColumns, static_cast<int64_t>(kColumns)));
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * source.size()));
}

void Register() {
  const char* types[] = {"bf16", "f16", "f32"};
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kReference}) {
    if (!IsSupported(isa)) continue;
    const std::string tail = "/" + std::string(Name(isa));
    benchmark::RegisterBenchmark(("read" + tail).c_str(), BM_Read, isa);
    for (const SourceType type : {SourceType::kBf16, SourceType::kF16, SourceType::kF32}) {
      const std::string name = types[static_cast<int>(type)] + tail;
      benchmark::RegisterBenchmark(("amax/memory/" + name).c_str(), BM_Amax, isa, type, 8192);
      benchmark::RegisterBenchmark(("amax/cache/" + name).c_str(), BM_Amax, isa, type, 4);
      for (const CodeType code : {CodeType::kFp8, CodeType::kInt8}) {
        const std::string what = code == CodeType::kFp8 ? "fp8/" : "int8/";
        benchmark::RegisterBenchmark(("cast/memory/" + what + name).c_str(), BM_Cast, isa, type,
                                     code, kColumns, 8192);
        benchmark::RegisterBenchmark(("cast/cache/" + what + name).c_str(), BM_Cast, isa, type,
                                     code, kColumns, 4);
        benchmark::RegisterBenchmark(("cast/block/" + what + name).c_str(), BM_Cast, isa, type,
                                     code, 128, 4);
      }
    }
    for (const size_t rows : {4u, 8192u}) {
      const std::string where = rows == 4 ? "cache" : "memory";
      benchmark::RegisterBenchmark(("observe/absmax/" + where + tail).c_str(), BM_Observe, isa,
                                   v1::OBSERVER_ABSMAX, rows);
      benchmark::RegisterBenchmark(("observe/counts/" + where + tail).c_str(), BM_Observe, isa,
                                   v1::OBSERVER_PERCENTILE, rows);
    }
    benchmark::RegisterBenchmark(("grid/fp8/bf16" + tail).c_str(), BM_GridErrors, isa,
                                 CodeType::kFp8);
    benchmark::RegisterBenchmark(("grid/int8/bf16" + tail).c_str(), BM_GridErrors, isa,
                                 CodeType::kInt8);
    benchmark::RegisterBenchmark(("activation/token/bf16" + tail).c_str(), BM_Activation, isa,
                                 false);
    benchmark::RegisterBenchmark(("activation/group/bf16" + tail).c_str(), BM_Activation, isa,
                                 true);
  }
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  octavo::Register();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
