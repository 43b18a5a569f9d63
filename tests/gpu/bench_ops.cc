// Shapes of Mixtral-8x22B, DBRX and Llama-3.1-8B.

#include <numeric>

#include "kernels/cuda/activation/activation.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/softmax/softmax.h"
#include "tests/gpu/bench.h"

namespace octavo::gpu {
namespace {

using Fill = DeviceBytes::Fill;

std::string Matrix(int64_t rows, int64_t columns) {
  return std::to_string(rows) + " x " + std::to_string(columns);
}

void MeasureCasts(std::vector<Figure>* figures) {
  constexpr int64_t kRows = 16384, kColumns = 6144;
  const DeviceBytes source(kRows * kColumns * 2, Fill::kBf16);
  const DeviceBytes codes(kRows * kColumns, Fill::kZero);
  const DeviceBytes maxima(kRows * 4, Fill::kZero);
  const DeviceBytes scales(kRows * 4, Fill::kBf16);
  const double amax = Time([&](cudaStream_t stream, int) {
    Launch(cuda::AmaxTiles{source.as<void>(), SourceType::kBf16, kRows, kColumns, 1, kColumns,
                           maxima.as<uint32_t>()},
           stream);
  });
  figures->push_back({"maxima of channels", Matrix(kRows, kColumns), amax, kRows * kColumns * 2.0});
  for (const CodeType code : {CodeType::kFp8, CodeType::kInt8}) {
    const double cast = Time([&](cudaStream_t stream, int) {
      Launch(cuda::CastTiles{source.as<void>(), SourceType::kBf16, kRows, kColumns, 1, kColumns,
                             scales.as<float>(), code, -127, codes.as<uint8_t>()},
             stream);
    });
    figures->push_back({code == CodeType::kFp8 ? "cast to FP8" : "cast to INT8",
                        Matrix(kRows, kColumns), cast, kRows * kColumns * 3.0});
  }
  const DeviceBytes counts(cuda::MagnitudeHistogram::kCounters * 4, Fill::kZero);
  const double histogram = Time([&](cudaStream_t stream, int) {
    Launch(cuda::MagnitudeHistogram{source.as<uint16_t>(), kRows * kColumns, counts.as<uint32_t>()},
           stream);
  });
  figures->push_back(
      {"histogram of magnitudes", Matrix(kRows, kColumns), histogram, kRows * kColumns * 2.0});
}

void MeasureTokens(std::vector<Figure>* figures) {
  constexpr int64_t kColumns = 6144, kRowsMax = 8192;
  const DeviceBytes x(kRowsMax * kColumns * 2, Fill::kBf16);
  const DeviceBytes codes(kRowsMax * kColumns, Fill::kZero);
  const DeviceBytes scales(kRowsMax * kColumns / 128 * 4, Fill::kZero);
  const DeviceBytes worst(4, Fill::kZero);
  for (const int64_t rows : {int64_t{1}, int64_t{64}, kRowsMax}) {
    for (const cuda::TokenScales kind :
         {cuda::TokenScales::kDynamicFp8, cuda::TokenScales::kGroupsFp8}) {
      const double time = Time([&](cudaStream_t stream, int) {
        Launch(cuda::QuantizeTokens{kind, x.as<uint16_t>(), rows, kColumns, 1, codes.as<uint8_t>(),
                                    scales.as<float>(), worst.as<uint32_t>()},
               stream);
      });
      figures->push_back({kind == cuda::TokenScales::kDynamicFp8 ? "tokens to FP8"
                                                                 : "tokens to FP8, groups of 128",
                          Matrix(rows, kColumns), time, static_cast<double>(rows * kColumns * 3)});
    }
  }
}

// A launch of `sequences` sequences with `count` new tokens each behind `position` others.
struct AttentionCase {
  int64_t sequences, count, position;
  bool fp8;
};

Figure MeasureOne(const AttentionCase& shape) {
  constexpr int64_t kGroup = 6, kKvHeads = 8, kHeadDim = 128;
  cuda::KvPages pages{nullptr, kKvHeads, kHeadDim, shape.fp8};
  const int64_t keys = shape.position + shape.count;
  const int64_t stride = (keys + cuda::kPageTokens - 1) / cuda::kPageTokens;
  std::vector<cuda::AttentionSpan> spans;
  for (int64_t i = 0; i < shape.sequences; ++i) {
    spans.push_back({static_cast<int32_t>(i * shape.count), static_cast<int32_t>(shape.count),
                     static_cast<int32_t>(shape.position)});
  }
  const cuda::AttentionPlan plan = cuda::PlanAttention(spans, kGroup, kKvHeads, 264);
  std::vector<int32_t> tables(static_cast<size_t>(shape.sequences * stride));
  std::iota(tables.begin(), tables.end(), 0);
  const int64_t row = kGroup * kKvHeads * kHeadDim;
  const size_t cache_bytes = tables.size() * static_cast<size_t>(pages.page_bytes());
  const DeviceBytes cache(cache_bytes, shape.fp8 ? Fill::kFp8 : Fill::kBf16);
  const DeviceBytes queries(static_cast<size_t>(shape.sequences * shape.count * row * 2),
                            Fill::kBf16);
  const DeviceBytes out(static_cast<size_t>(shape.sequences * shape.count * row * 2), Fill::kZero);
  const auto upload = [](const auto& values) {
    const size_t bytes = values.size() * sizeof(values[0]);
    auto memory = std::make_unique<DeviceBytes>(bytes + 1, Fill::kZero);
    cudaMemcpy(memory->as<void>(), values.data(), bytes, cudaMemcpyHostToDevice);
    return memory;
  };
  const auto device_spans = upload(spans);
  const auto device_tables = upload(tables);
  const auto items = upload(plan.items);
  const auto merges = upload(plan.merges);
  const DeviceBytes scratch(
      static_cast<size_t>(plan.slots * cuda::AttentionSlotFloats(kKvHeads) + 1) * 4, Fill::kZero);
  pages.data = cache.as<std::byte>();
  const cuda::AttentionCall call{pages,
                                 kGroup,
                                 queries.as<uint16_t>(),
                                 device_spans->as<cuda::AttentionSpan>(),
                                 device_tables->as<int32_t>(),
                                 stride,
                                 items->as<cuda::AttentionItem>(),
                                 static_cast<int32_t>(plan.items.size()),
                                 merges->as<cuda::AttentionMerge>(),
                                 static_cast<int32_t>(plan.merges.size()),
                                 0.088f,
                                 1,
                                 1,
                                 scratch.as<float>(),
                                 out.as<uint16_t>()};
  const double time = Time([&](cudaStream_t stream, int) { Launch(call, stream); });
  const double seen =
      static_cast<double>(shape.sequences * shape.count) *
      (static_cast<double>(shape.position) + static_cast<double>(shape.count + 1) / 2);
  return {shape.fp8 ? "attention, FP8 cache" : "attention, BF16 cache",
          std::to_string(shape.sequences) + " sequences, " + std::to_string(shape.count) +
              " tokens behind " + std::to_string(shape.position) + ", 48/8 heads of 128",
          time, static_cast<double>(cache_bytes), seen * static_cast<double>(row) * 4};
}

}  // namespace

void MeasureQuantize(std::vector<Figure>* figures) {
  MeasureCasts(figures);
  MeasureTokens(figures);
}

void MeasureRows(std::vector<Figure>* figures) {
  constexpr int64_t kColumns = 6144, kInner = 16384, kVocabulary = 131072, kRowsMax = 4096;
  const DeviceBytes x(kRowsMax * kInner * 4, Fill::kBf16);
  const DeviceBytes weight(kColumns * 2, Fill::kBf16);
  const DeviceBytes codes(kRowsMax * kInner, Fill::kZero);
  const DeviceBytes scales(kRowsMax * 4, Fill::kZero);
  const DeviceBytes ids(kRowsMax * 50 * 4, Fill::kZero);
  const DeviceBytes worst(4, Fill::kZero);
  const cuda::TokenCodes token{cuda::TokenScales::kDynamicFp8, 1, codes.as<uint8_t>(),
                               scales.as<float>(), worst.as<uint32_t>()};
  for (const int64_t rows : {int64_t{1}, int64_t{64}, kRowsMax}) {
    const auto count = static_cast<double>(rows);
    figures->push_back({"RMSNorm to FP8", Matrix(rows, kColumns),
                        Time([&](cudaStream_t stream, int) {
                          Launch(cuda::NormRows{.x = x.as<uint16_t>(),
                                                .rows = rows,
                                                .columns = kColumns,
                                                .weight = weight.as<uint16_t>(),
                                                .eps = 1e-5f,
                                                .codes = token},
                                 stream);
                        }),
                        count * kColumns * 3});
    figures->push_back({"silu * up to FP8", Matrix(rows, kInner),
                        Time([&](cudaStream_t stream, int) {
                          Launch(cuda::SiluMultiply{.gate = x.as<uint16_t>(),
                                                    .up = x.as<uint16_t>() + kInner,
                                                    .rows = rows,
                                                    .columns = kInner,
                                                    .stride = 2 * kInner,
                                                    .codes = token},
                                 stream);
                        }),
                        count * kInner * 5});
  }
  for (const int64_t rows : {1, 64, 256}) {
    const auto bytes = static_cast<double>(rows * kVocabulary * 4);
    figures->push_back({"denominators", Matrix(rows, kVocabulary),
                        Time([&](cudaStream_t stream, int) {
                          Launch(cuda::LogSums{x.as<float>(), rows, kVocabulary, scales.as<float>(),
                                               scales.as<float>(), ids.as<int32_t>()},
                                 stream);
                        }),
                        bytes});
    figures->push_back({"50 largest", Matrix(rows, kVocabulary),
                        Time([&](cudaStream_t stream, int) {
                          Launch(cuda::TopLogits{x.as<float>(), rows, kVocabulary, 50,
                                                 codes.as<float>(), ids.as<int32_t>()},
                                 stream);
                        }),
                        bytes});
  }
}

void MeasureAttention(std::vector<Figure>* figures) {
  for (const bool fp8 : {false, true}) {
    for (const AttentionCase& shape :
         {AttentionCase{1, 1, 1023, fp8}, AttentionCase{1, 1, 32767, fp8},
          AttentionCase{32, 1, 2047, fp8}, AttentionCase{128, 1, 2047, fp8},
          AttentionCase{1, 4096, 0, fp8}, AttentionCase{1, 256, 8192, fp8}}) {
      figures->push_back(MeasureOne(shape));
    }
  }
}

}  // namespace octavo::gpu
