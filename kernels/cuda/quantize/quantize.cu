// Weights: a warp takes a stretch of a row inside one tile.

#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/int8.h"
#include "core/tensor/bare/units.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/rows.h"

namespace octavo::cuda {
namespace {

constexpr int64_t kStretch = 2048;  // columns a warp takes at most
constexpr int64_t kBlocksMax = 1 << 20;

}  // namespace

// How stretches of rows are dealt out: every tile's width is cut into stretches on its own.
struct StretchMap {
  int64_t rows, columns, tile_columns, tiles, per_tile;

  struct Stretch {
    int64_t row, tile, begin, end;
  };

  static constexpr StretchMap Of(int64_t rows, int64_t columns, int64_t tile_columns) {
    return {rows, columns, tile_columns, CeilDiv(columns, tile_columns),
            CeilDiv(tile_columns < columns ? tile_columns : columns, kStretch)};
  }
  constexpr int64_t count() const { return rows * tiles * per_tile; }
  // Empty (begin >= end) behind the end of a last tile that is short.
  constexpr Stretch At(int64_t index) const {
    const int64_t tile = index / per_tile % tiles;
    const int64_t begin = tile * tile_columns + index % per_tile * kStretch;
    int64_t end = begin + kStretch;
    const int64_t tile_end = (tile + 1) * tile_columns;
    if (end > tile_end) end = tile_end;
    if (end > columns) end = columns;
    return {index / (per_tile * tiles), tile, begin, end};
  }
};

template <SourceType kType>
struct AmaxTilesKernel {
  static constexpr int kThreads = 256;
  AmaxTiles call;
  StretchMap map;

  OCTAVO_DEVICE void operator()() const {
    using Stored = typename Element<kType>::Stored;
    constexpr int kWarps = kThreads / simt::kWarp;
    for (int64_t index = int64_t{simt::Block()} * kWarps + simt::Warp(); index < map.count();
         index += int64_t{simt::Blocks()} * kWarps) {
      const StretchMap::Stretch at = map.At(index);
      if (at.begin >= at.end) continue;
      const Stored* row =
          static_cast<const Stored*>(call.source) + at.row * call.columns + at.begin;
      uint32_t most = 0;
      ForEachRun(row, at.end - at.begin, simt::Lane(), simt::kWarp,
                 [&](const auto& values, int64_t, int) {
                   for (const Stored bits : values) {
                     most = MergeAmax(most, Element<kType>::Magnitude(bits));
                   }
                 });
      most = WarpMax(most);
      if (simt::Lane() == 0) {
        simt::AtomicMax(&call.maxima[at.row / call.tile_rows * map.tiles + at.tile], most);
      }
    }
  }
};

// A block counts one half of the magnitudes: all counters would not fit every GPU's shared memory.
struct HistogramKernel {
  static constexpr int kThreads = 512;
  static constexpr int kHalves = 2;
  static constexpr int kCounters = MagnitudeHistogram::kCounters / kHalves;
  MagnitudeHistogram call;

  OCTAVO_DEVICE void operator()() const {
    auto* counters = simt::SharedMemory<uint32_t>();
    const int first = simt::BlockRow() * kCounters;
    for (int i = simt::ThreadIndex(); i < kCounters; i += kThreads) counters[i] = 0;
    simt::SyncBlock();
    ForEachRun(call.source, call.count, simt::Block() * kThreads + simt::ThreadIndex(),
               simt::Blocks() * kThreads, [&](const auto& values, int64_t, int count) {
                 for (int i = 0; i < 8; ++i) {
                   const int at = (values[i] & 0x7fff) - first;
                   if (i < count && at >= 0 && at < kCounters) simt::AtomicAdd(&counters[at], 1);
                 }
               });
    simt::SyncBlock();
    for (int i = simt::ThreadIndex(); i < kCounters; i += kThreads) {
      if (counters[i] != 0) simt::AtomicAdd(&call.counts[first + i], counters[i]);
    }
  }
};

template <SourceType kType, CodeType kCode>
struct CastTilesKernel {
  static constexpr int kThreads = 256;
  CastTiles call;
  StretchMap map;

  OCTAVO_DEVICE uint8_t Code(float quotient) const {
    if constexpr (kCode == CodeType::kFp8) return Fp8FromF32(quotient);
    return static_cast<uint8_t>(Int8FromF32(quotient, call.int8_min));
  }

  OCTAVO_DEVICE void operator()() const {
    using Stored = typename Element<kType>::Stored;
    constexpr int kWarps = kThreads / simt::kWarp;
    constexpr int kRun = static_cast<int>(16 / sizeof(Stored));
    for (int64_t index = int64_t{simt::Block()} * kWarps + simt::Warp(); index < map.count();
         index += int64_t{simt::Blocks()} * kWarps) {
      const StretchMap::Stretch at = map.At(index);
      if (at.begin >= at.end) continue;
      const int64_t offset = at.row * call.columns + at.begin;
      const float scale = call.scales[at.row / call.tile_rows * map.tiles + at.tile];
      ForEachRun(static_cast<const Stored*>(call.source) + offset, at.end - at.begin, simt::Lane(),
                 simt::kWarp, [&](const auto& values, int64_t column, int count) {
                   uint8_t codes[kRun];
                   for (int i = 0; i < kRun; ++i) {
                     codes[i] = Code(Element<kType>::Value(values[i]) / scale);
                   }
                   StoreCodes(call.codes + offset + column, codes, count);
                 });
    }
  }
};

namespace {

template <typename Kernel, typename Call>
void LaunchOverStretches(const Call& call, simt::Stream stream) {
  if (call.rows == 0 || call.columns == 0) return;
  const StretchMap map = StretchMap::Of(call.rows, call.columns, call.tile_columns);
  const int64_t blocks = CeilDiv(map.count(), Kernel::kThreads / simt::kWarp);
  const simt::Grid grid{.blocks = static_cast<int>(blocks < kBlocksMax ? blocks : kBlocksMax)};
  simt::Launch(Kernel{call, map}, grid, stream);
}

template <SourceType kType>
void LaunchCast(const CastTiles& call, simt::Stream stream) {
  if (call.code == CodeType::kFp8) {
    LaunchOverStretches<CastTilesKernel<kType, CodeType::kFp8>>(call, stream);
  } else {
    LaunchOverStretches<CastTilesKernel<kType, CodeType::kInt8>>(call, stream);
  }
}

}  // namespace

void Launch(const AmaxTiles& call, simt::Stream stream) {
  switch (call.type) {
    case SourceType::kBf16:
      return LaunchOverStretches<AmaxTilesKernel<SourceType::kBf16>>(call, stream);
    case SourceType::kF16:
      return LaunchOverStretches<AmaxTilesKernel<SourceType::kF16>>(call, stream);
    case SourceType::kF32:
      return LaunchOverStretches<AmaxTilesKernel<SourceType::kF32>>(call, stream);
  }
}

void Launch(const MagnitudeHistogram& call, simt::Stream stream) {
  constexpr int64_t kBlocksMax = 128;
  const int64_t blocks = CeilDiv(call.count, HistogramKernel::kThreads * 8);
  simt::Launch(HistogramKernel{call},
               {.blocks = static_cast<int>(blocks < kBlocksMax ? blocks : kBlocksMax),
                .rows = HistogramKernel::kHalves,
                .shared_bytes = HistogramKernel::kCounters * 4},
               stream);
}

void Launch(const CastTiles& call, simt::Stream stream) {
  switch (call.type) {
    case SourceType::kBf16:
      return LaunchCast<SourceType::kBf16>(call, stream);
    case SourceType::kF16:
      return LaunchCast<SourceType::kF16>(call, stream);
    case SourceType::kF32:
      return LaunchCast<SourceType::kF32>(call, stream);
  }
}

}  // namespace octavo::cuda
