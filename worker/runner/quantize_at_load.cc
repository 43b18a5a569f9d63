#include "worker/runner/quantize_at_load.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/tensor/bare/units.h"
#include "core/tensor/dtype_proto.h"
#include "worker/quant/quantizer.h"
#include "worker/runner/pack_weights.h"

namespace octavo {
namespace {

// Elements read and quantized at a time, about: 1 MiB of them.
constexpr int64_t kElementsAtATime = 1 << 19;

// One thread's rows on their way from a file to tiles.
struct RowBatch {
  std::vector<std::byte> source, codes, scales;
};

struct Job {
  ShardFiles* files;
  const v1::TensorSpec& spec;
  SliceBounds bounds;
  QuantizeRule rule;
  const Quantizer& quantizer;
  std::byte* tiles;
  Linear* out;
};

// Rows [begin, end) of the slice.
absl::Status QuantizeRows(const Job& job, int64_t begin, int64_t end, RowBatch* batch) {
  const int64_t rows = end - begin, columns = job.bounds.columns;
  const DType dtype = FromProto(job.spec.dtype());
  const int64_t row_bytes = columns * ByteSize(dtype);
  const int64_t first = job.bounds.row_begin + begin;
  const uint64_t offset = job.spec.begin() + static_cast<uint64_t>(first * row_bytes);
  batch->source.resize(static_cast<size_t>(rows * row_bytes));
  batch->codes.resize(CodeBytes(rows, columns));
  batch->scales.resize(ScaleBytes(job.rule, rows, columns));
  OCTAVO_RETURN_IF_ERROR(job.files->Read(job.spec.file(), offset, batch->source, job.spec.name()));
  const WeightRows source = {batch->source, dtype,           first,           rows,
                             columns,       job.spec.name(), job.spec.file(), offset};
  OCTAVO_RETURN_IF_ERROR(
      job.quantizer.Quantize(source, nullptr, batch->codes, batch->scales).status());
  const std::vector<float> scales = StoredFloats(job.rule.scale_dtype, batch->scales);
  std::copy(scales.begin(), scales.end(), job.out->channel_scales.begin() + begin);
  for (int64_t i = 0; i < rows; ++i) {
    const auto row = std::span(batch->codes).subspan(CodeBytes(i, columns), CodeBytes(1, columns));
    PackRow(begin + i, row, job.tiles, job.out);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status QuantizeAtLoad(ShardFiles* files, const v1::RankTensor& weight, Isa isa,
                            ThreadPool* pool, std::byte* tiles, Linear* out) {
  const v1::TensorSpec& spec = weight.tensor().spec();
  // As `octavo quantize` stores scales (core/checkpoint/dialect.h): BF16 beside BF16, else F32.
  const QuantizeRule rule = {.format = weight.scheme().weight(),
                             .scale_dtype = spec.dtype() == v1::BF16 ? DType::kBF16 : DType::kF32};
  OCTAVO_ASSIGN_OR_RETURN(const std::unique_ptr<Quantizer> quantizer, MakeQuantizer(rule, isa));
  const Job job = {files, spec, BoundsOf(weight), rule, *quantizer, tiles, out};
  out->channel_scales.assign(static_cast<size_t>(out->padded_channels()), 0.0f);
  // Rows of one group of channels share tiles: whole groups on one thread.
  const int64_t step =
      RoundUp(std::max<int64_t>(kElementsAtATime / job.bounds.columns, 1), kTileChannels);
  Mutex mutex;
  absl::Status failure;
  pool->ParallelFor(CeilDiv(out->channels, step), 1, [&](int64_t begin, int64_t end, int) {
    RowBatch batch;
    for (int64_t index = begin; index < end; ++index) {
      const absl::Status status =
          QuantizeRows(job, index * step, std::min((index + 1) * step, out->channels), &batch);
      if (status.ok()) continue;
      const MutexLock lock(mutex);
      failure.Update(status);
      return;
    }
  });
  return failure;
}

}  // namespace octavo
