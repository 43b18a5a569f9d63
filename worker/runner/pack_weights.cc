#include "worker/runner/pack_weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "core/base/mutex.h"
#include "core/tensor/bare/units.h"

namespace octavo {
namespace {

// Rows read and packed at a time: a multiple of a group, about 1 MiB.
int64_t RowsAtATime(int64_t row_bytes) {
  const int64_t rows = (1 << 20) / std::max<int64_t>(row_bytes, 1);
  return std::max<int64_t>(rows / kTileChannels, 1) * kTileChannels;
}

// The slice of a transposed tensor along the axes on disk.
v1::RankTensor AsStored(v1::RankTensor tensor) {
  if (tensor.has_slice()) tensor.mutable_slice()->set_axis(1 - tensor.slice().axis());
  return tensor;
}

// `bytes`: [count][channels] elements, the inputs from `first` on, which lie in one 32-block.
void PackBlock(std::span<const std::byte> bytes, int64_t first, int64_t count, const Linear& out,
               std::byte* tiles) {
  const int64_t unit = first / out.unit_size;
  const int64_t at = unit * out.blocks_per_unit * kTileDepth + (first - unit * out.unit_size);
  const int64_t size = ElementBytes(out.packed.type);
  alignas(2) std::byte column[2 * kTileDepth];
  for (int64_t channel = 0; channel < out.channels; ++channel) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(column + i * size, bytes.data() + (i * out.channels + channel) * size,
                  static_cast<size_t>(size));
    }
    PackChannel(out.packed, tiles, channel, at, column, count);
  }
}

// The stored rows are inputs: 32 of them at a time are turned into a run of every channel.
absl::Status PackColumns(const SliceReader& reader, const Linear& out, ThreadPool* pool,
                         std::byte* tiles) {
  const int64_t blocks = CeilDiv(out.depth, kTileDepth);
  Mutex mutex;
  absl::Status failure;
  pool->ParallelFor(blocks, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<std::byte> bytes;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kTileDepth;
      const int64_t count = std::min(kTileDepth, out.depth - first);
      const int64_t row = reader.bounds().row_begin + first;
      const absl::Status status = reader.ReadRows(row, row + count, &bytes);
      if (!status.ok()) {
        const MutexLock lock(mutex);
        failure.Update(status);
        return;
      }
      PackBlock(bytes, first, count, out, tiles);
    }
  });
  return failure;
}

}  // namespace

void PackRow(int64_t row, std::span<const std::byte> bytes, std::byte* tiles, Linear* out) {
  const int64_t size = ElementBytes(out->packed.type);
  for (int unit = 0; unit < out->unit_count; ++unit) {
    const int64_t begin = unit * out->unit_size;
    const int64_t count = std::min(out->unit_size, out->depth - begin);
    PackChannel(out->packed, tiles, row, unit * out->blocks_per_unit * kTileDepth,
                bytes.data() + begin * size, count);
  }
  if (out->form != InputForm::kInt8Token) return;
  int32_t sum = 0;
  for (const std::byte code : bytes) sum += static_cast<int8_t>(code);
  out->channel_sums[static_cast<size_t>(row)] = sum;
}

absl::Status ForRows(const SliceReader& reader, ThreadPool* pool,
                     const std::function<void(int64_t, std::span<const std::byte>)>& body) {
  const SliceBounds& bounds = reader.bounds();
  const int64_t rows = bounds.row_end - bounds.row_begin;
  const int64_t step = RowsAtATime(reader.row_bytes());
  Mutex mutex;
  absl::Status failure;
  std::atomic<bool> failed = false;
  pool->ParallelFor((rows + step - 1) / step, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<std::byte> bytes;
    for (int64_t index = begin; index < end && !failed; ++index) {
      const int64_t first = index * step;
      const int64_t last = std::min(first + step, rows);
      const absl::Status status =
          reader.ReadRows(bounds.row_begin + first, bounds.row_begin + last, &bytes);
      if (!status.ok()) {
        const MutexLock lock(mutex);
        if (!failed.exchange(true)) failure = status;
        return;
      }
      const auto size = static_cast<size_t>(reader.row_bytes());
      for (int64_t row = first; row < last; ++row) {
        body(row, std::span(bytes).subspan(static_cast<size_t>(row - first) * size, size));
      }
    }
  });
  return failure;
}

SliceBounds ChannelBounds(const v1::RankTensor& weight) {
  if (!weight.tensor().transposed()) return BoundsOf(weight);
  const SliceBounds stored = BoundsOf(AsStored(weight));
  return {stored.columns,    stored.rows,      stored.column_begin,
          stored.column_end, stored.row_begin, stored.row_end};
}

absl::Status ReadWeight(ShardFiles* files, const v1::RankTensor& weight, ThreadPool* pool,
                        std::byte* out) {
  if (!weight.tensor().transposed()) {
    const SliceReader reader(files, weight);
    return ForRows(reader, pool, [&](int64_t row, std::span<const std::byte> bytes) {
      std::memcpy(out + row * reader.row_bytes(), bytes.data(), bytes.size());
    });
  }
  const v1::RankTensor stored = AsStored(weight);
  const SliceReader reader(files, stored);
  const SliceBounds bounds = ChannelBounds(weight);
  const int64_t depth = bounds.column_end - bounds.column_begin;
  const int64_t channels = bounds.row_end - bounds.row_begin;
  const int64_t size = reader.row_bytes() / std::max<int64_t>(channels, 1);
  return ForRows(reader, pool, [&](int64_t input, std::span<const std::byte> bytes) {
    for (int64_t channel = 0; channel < channels; ++channel) {
      std::memcpy(out + (channel * depth + input) * size, bytes.data() + channel * size,
                  static_cast<size_t>(size));
    }
  });
}

absl::Status PackWeight(ShardFiles* files, const v1::RankTensor& weight, ThreadPool* pool,
                        std::byte* tiles, Linear* out) {
  if (weight.tensor().transposed()) {
    const v1::RankTensor stored = AsStored(weight);
    return PackColumns(SliceReader(files, stored), *out, pool, tiles);
  }
  const auto pack = [&](int64_t row, std::span<const std::byte> bytes) {
    PackRow(row, bytes, tiles, out);
  };
  return ForRows(SliceReader(files, weight), pool, pack);
}

}  // namespace octavo
