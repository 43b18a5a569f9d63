#pragma once

// The kernel of one tile shape and one pair of types, and what its launch is told. For the files of
// this folder.

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/dense/dense.h"
#include "kernels/cuda/dense/finish.h"
#include "kernels/cuda/dense/tile_product.h"
#include "kernels/cuda/dense/tiles.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

// A product cut into work: every tile of every piece. A piece is a subtree of units; its sums are
// made by one block, unit after unit.
struct DenseWork {
  static constexpr int kRunsMax = 16;  // a run of Tree(128) has at most 12 maximal subtrees

  Dense call;
  int64_t unit_size = 0;
  int unit_stages = 0;  // of a whole unit
  int pieces = 1;
  bool single_units = false;  // piece i is unit i; else runs[i], counted from the first unit here
  LeafRun runs[kRunsMax];
  void* sums = nullptr;   // [piece][rows][channels]; null: call.finish
  void* stack = nullptr;  // [block][StackDepth][tile] where a piece has more units than one
  int stack_depth = 0;
  int64_t blocks = 0;

  constexpr LeafRun Piece(int i) const { return single_units ? LeafRun{i, i + 1} : runs[i]; }
};

template <DenseTypes kTypes, DenseTile kTile>
struct DenseKernel {
  using Product = TileProduct<kTypes, kTile>;
  using Sum = typename Product::Sum;
  using Sums = typename Product::Sums;
  static constexpr TileShape kShape = Product::kShape;
  static constexpr int kThreads = Product::kThreads;
  static constexpr int kSharedBytes = SharedBytes(kTypes, kShape);
  static constexpr int kOwn = Product::kM * Product::kN * 4;  // sums of a thread
  DenseWork work;

  // The k of stage `stage` of a piece: from `begin`; what lies behind `end` is another unit's.
  struct Stretch {
    int64_t begin, end;
  };
  OCTAVO_DEVICE Stretch StretchOf(LeafRun piece, int stage) const {
    const int64_t unit = piece.begin + stage / work.unit_stages;
    const int64_t begin = unit * work.unit_size;
    const int64_t end = begin + work.unit_size;
    return {begin + int64_t{stage % work.unit_stages} * Product::kDepth,
            end < work.call.depth ? end : work.call.depth};
  }

  // Rows that are taken together: of one expert, at most kShape.rows from `begin`.
  struct RowTile {
    int64_t begin, end;  // begin == end: there is no such tile
    int expert;
  };
  OCTAVO_DEVICE RowTile RowTileOf(int64_t index) const {
    const DenseExperts& experts = work.call.experts;
    if (experts.count == 0) return {index * kShape.rows, work.call.rows, 0};
    for (int expert = 0; expert < experts.count; ++expert) {
      const int64_t begin = experts.offsets[expert], end = experts.offsets[expert + 1];
      const int64_t tiles = CeilDiv(end - begin, kShape.rows);
      if (index < tiles) return {begin + index * kShape.rows, end, expert};
      index -= tiles;
    }
    return {0, 0, 0};
  }

  OCTAVO_DEVICE TileOperands OperandsOf(const RowTile& rows_of, int64_t channel) const {
    const Dense& call = work.call;
    const int64_t row = rows_of.begin;
    const int64_t x_row_bytes = call.x_stride * XBytes(kTypes);
    const int64_t w_row_bytes = call.w_stride * WBytes(kTypes);
    const int64_t rows = rows_of.end - row, channels = call.channels - channel;
    TileOperands tile{};
    tile.x = static_cast<const std::byte*>(call.x) + row * x_row_bytes;
    tile.w = static_cast<const std::byte*>(call.w) +
             (rows_of.expert * call.channels + channel) * w_row_bytes;
    tile.x_row_bytes = x_row_bytes;
    tile.w_row_bytes = w_row_bytes;
    tile.rows = static_cast<int>(rows < kShape.rows ? rows : kShape.rows);
    tile.channels = static_cast<int>(channels < kShape.channels ? channels : kShape.channels);
    if constexpr (kTypes == DenseTypes::kFp8Blocks) {
      tile.x_scales = call.x_scales + row * call.x_scale_stride;
      tile.x_scale_stride = call.x_scale_stride;
      tile.w_scales = call.w_scales + (rows_of.expert * CeilDiv(call.channels, kScaleBlock) +
                                       channel / kScaleBlock) *
                                          call.w_scale_stride;
    }
    return tile;
  }

  // A level of the block's stack; a thread's own sums lie kThreads apart.
  OCTAVO_DEVICE Sum* Level(int level) const {
    return static_cast<Sum*>(work.stack) +
           (int64_t{simt::Block()} * work.stack_depth + level) * (kOwn * kThreads) +
           simt::ThreadIndex();
  }

  // Merges `sums` of unit `leaf` of `count` with those on the stack. Then they lie on top of it,
  // and `sums` begins the next unit at zero; after the last, `sums` is the result.
  OCTAVO_DEVICE void MergeUnit(int leaf, int count, int* depth, Sums& sums) const {
    for (int left = MergesAfter(leaf, count); left > 0; --left) {
      const Sum* from = Level(--*depth);
      for (int i = 0; i < kOwn; ++i) {
        Sum& sum = sums[i / 4 / Product::kN][i / 4 % Product::kN][i % 4];
        sum = from[i * kThreads] + sum;
      }
    }
    if (leaf + 1 == count) return;
    Sum* to = Level((*depth)++);
    for (int i = 0; i < kOwn; ++i) {
      to[i * kThreads] = sums[i / 4 / Product::kN][i / 4 % Product::kN][i % 4];
    }
    Product::Clear(sums);
  }

  // The sums of a piece.
  OCTAVO_DEVICE void AddPiece(const TileOperands& tile, LeafRun piece, std::byte* shared,
                              Sums& sums) const {
    const int units = piece.end - piece.begin;
    const int stages = units * work.unit_stages;
    for (int stage = 0; stage < kShape.stages - 1; ++stage) {
      if (stage < stages) {
        const Stretch k = StretchOf(piece, stage);
        Product::CopyStage(tile, k.begin, k.end, shared + stage * Product::kStageBytes);
      }
      simt::CommitCopies();
    }
    int depth = 0;
    int slot = 0;
    for (int stage = 0; stage < stages; ++stage) {
      simt::WaitCopies<kShape.stages - 2>();
      // This stage has arrived for all threads, and all are done with the one before it, whose
      // place the next copies take.
      simt::SyncBlock();
      const int next = stage + kShape.stages - 1;
      if (next < stages) {
        const Stretch k = StretchOf(piece, next);
        const int free = slot == 0 ? kShape.stages - 1 : slot - 1;
        Product::CopyStage(tile, k.begin, k.end, shared + free * Product::kStageBytes);
      }
      simt::CommitCopies();
      Product::AddStage(tile, shared + slot * Product::kStageBytes,
                        StretchOf(piece, stage).begin / kScaleBlock, sums);
      slot = slot + 1 == kShape.stages ? 0 : slot + 1;
      if ((stage + 1) % work.unit_stages == 0) {
        Product::EndUnit(sums);
        MergeUnit(stage / work.unit_stages, units, &depth, sums);
      }
    }
    simt::WaitCopies<0>();
  }

  // Through shared memory, so that neighbours write neighbouring channels.
  OCTAVO_DEVICE void WriteTile(const TileOperands& tile, const RowTile& rows, int64_t channel0,
                               int piece, std::byte* shared, const Sums& sums) const {
    auto* out = reinterpret_cast<Sum*>(shared);
    const int64_t row0 = rows.begin;
    const Dense& call = work.call;
    const ExpertFinish own = FinishOf(call.experts, call.finish, call.channels, rows.expert);
    simt::SyncBlock();  // all are done with the stages
    for (int m = 0; m < Product::kM; ++m) {
      for (int n = 0; n < Product::kN; ++n) {
        for (int i = 0; i < 4; ++i) {
          out[SumOffset(kShape, Product::RowOf(n, i), Product::ChannelOf(m, i))] = sums[m][n][i];
        }
      }
    }
    simt::SyncBlock();
    for (int i = simt::ThreadIndex(); i < kShape.rows * kShape.channels; i += kThreads) {
      const int row = i / kShape.channels, channel = i % kShape.channels;
      if (row >= tile.rows || channel >= tile.channels) continue;
      const Sum sum = out[SumOffset(kShape, row, channel)];
      if (work.sums != nullptr) {
        static_cast<Sum*>(
            work.sums)[(piece * call.rows + row0 + row) * call.channels + channel0 + channel] = sum;
      } else {
        FinishElement(call.finish, own, row0 + row, channel0 + channel, sum);
      }
    }
    simt::SyncBlock();  // shared memory is free for the next tile
  }

  OCTAVO_DEVICE void operator()() const {
    auto* shared = simt::SharedMemory<std::byte>();
    const TileOrder order =
        TileOrder::Of(kShape, work.call.rows, work.call.channels, work.call.experts.count);
    const int64_t tiles = order.count();
    for (int64_t index = simt::Block(); index < tiles * work.pieces; index += simt::Blocks()) {
      const auto piece = static_cast<int>(index / tiles);
      const TileOrder::Place place = order.At(index % tiles);
      const int64_t channel = place.channel * kShape.channels;
      const RowTile rows = RowTileOf(place.row);
      if (rows.begin == rows.end) continue;
      const TileOperands tile = OperandsOf(rows, channel);
      Sums sums;
      Product::Clear(sums);
      AddPiece(tile, work.Piece(piece), shared, sums);
      WriteTile(tile, rows, channel, piece, shared, sums);
    }
  }
};

// A kernel and how it is launched.
struct DenseEntry {
  DenseRow row;
  void (*launch)(const DenseWork& work, simt::Stream stream);
};

template <DenseTypes kTypes, DenseTile kTile>
void LaunchDenseTile(const DenseWork& work, simt::Stream stream) {
  using Kernel = DenseKernel<kTypes, kTile>;
  simt::Launch(Kernel{work},
               {.blocks = static_cast<int>(work.blocks), .shared_bytes = Kernel::kSharedBytes},
               stream);
}

template <DenseTypes kTypes, DenseTile kTile>
constexpr DenseEntry DenseEntryOf() {
  constexpr TileShape kShape = ShapeOf(kTile);
  return {.row = {.types = kTypes,
                  .tile = kTile,
                  .sm = 80,
                  .tile_rows = kShape.rows,
                  .tile_channels = kShape.channels,
                  .threads = kShape.threads(),
                  .shared_bytes = SharedBytes(kTypes, kShape)},
          .launch = LaunchDenseTile<kTypes, kTile>};
}

// A file for each of DenseTypes.
std::span<const DenseEntry> DenseFp8Entries();
std::span<const DenseEntry> DenseFp8BlocksEntries();
std::span<const DenseEntry> DenseInt8Entries();
std::span<const DenseEntry> DenseBf16Entries();
std::span<const DenseEntry> DenseBf16Fp8Entries();

}  // namespace octavo::cuda
