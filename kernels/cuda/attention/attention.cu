// A block takes 64 rows of one KV head (16 for each of four warps) over tiles of 64 keys, two
// tiles in flight. Sums of merged splits wait in shared memory.

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/row_sums.h"
#include "kernels/cuda/attention/tile.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

OCTAVO_DEVICE uint32_t PackBf16(float low, float high) {
  return static_cast<uint32_t>(Bf16FromF32(low)) | static_cast<uint32_t>(Bf16FromF32(high)) << 16;
}

template <int kDim, bool kFp8>
struct AttentionKernel {
  static constexpr int kThreads = kAttentionThreads;
  using Tile = AttentionTile<kDim>;
  static constexpr int kKeyTiles = kAttentionTile / 8;
  static constexpr int kDimTiles = kDim / 8;
  static constexpr int kSums = kDimTiles * 4;  // a thread's share of 16 rows
  static constexpr int kSharedBytes = 4 * Tile::kBytes + kSums * kThreads * 4;
  AttentionCall call;

  // State of this thread: two rows of its warp's 16.
  struct State {
    uint32_t query[kDim / 16][4];
    float sums[kDimTiles][4];
    RowSums rows[2];    // of the split under way; `sum` is this lane's part
    RowSums merged[2];  // of the splits before
    int32_t last_key[2];
  };

  // 16 bytes of a key or value row: eight numbers, zero where the cache has none.
  OCTAVO_DEVICE void CopyChunk(std::byte* to, const AttentionSpan& span, const int32_t* table,
                               int32_t key, int chunk, int64_t kv_head, bool value) const {
    const bool valid = key < span.position + span.count && chunk * 8 < call.pages.head_dim;
    const int64_t page = valid ? table[key / kPageTokens] : 0;
    const std::byte* from =
        call.pages.data + call.pages.Offset(page, kv_head, value) +
        (valid ? (key % kPageTokens * call.pages.head_dim + chunk * 8) * call.pages.element_bytes()
               : 0);
    if constexpr (!kFp8) {
      simt::CopyAsync16(to, from, valid);
    } else {
      struct alignas(8) Codes {
        uint8_t at[8];
      } codes{};
      struct alignas(16) Numbers {
        uint16_t at[8];
      } numbers;
      if (valid) codes = *reinterpret_cast<const Codes*>(from);
      OCTAVO_UNROLL
      for (int i = 0; i < 8; ++i) numbers.at[i] = Bf16FromFp8(codes.at[i]);
      *reinterpret_cast<Numbers*>(to) = numbers;
    }
  }

  // Starts to fill buffer `tile % 2` with keys and values.
  OCTAVO_DEVICE void Fill(std::byte* shared, const AttentionSpan& span, const int32_t* table,
                          int32_t tile, int64_t kv_head) const {
    std::byte* keys = shared + tile % 2 * 2 * Tile::kBytes;
    OCTAVO_ROLLED
    for (int i = simt::ThreadIndex(); i < kAttentionTile * Tile::kChunks; i += kThreads) {
      const int row = i / Tile::kChunks;
      const int chunk = i % Tile::kChunks;
      const int32_t key = tile * kAttentionTile + row;
      CopyChunk(keys + Tile::Offset(row, chunk), span, table, key, chunk, kv_head, false);
      CopyChunk(keys + Tile::kBytes + Tile::Offset(row, chunk), span, table, key, chunk, kv_head,
                true);
    }
    simt::CommitCopies();
  }

  OCTAVO_DEVICE void LoadQueries(State& state, const AttentionSpan& span, int64_t row_begin,
                                 int64_t kv_head) const {
    const int64_t rows = span.count * call.group;
    OCTAVO_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t row = row_begin + simt::Warp() * 16 + simt::Lane() / 4 + half * 8;
      state.last_key[half] = row < rows ? PositionOf(span, row, call.group) : -1;
      const uint16_t* query = call.queries + (row < rows ? RowOffset(call, span, row, kv_head) : 0);
      OCTAVO_UNROLL
      for (int step = 0; step < kDim / 16; ++step) {
        OCTAVO_UNROLL
        for (int part = 0; part < 2; ++part) {
          const int column = step * 16 + part * 8 + simt::Lane() % 4 * 2;
          const bool valid = row < rows && column < call.pages.head_dim;
          state.query[step][part * 2 + half] =
              valid ? *reinterpret_cast<const uint32_t*>(query + column) : 0;
        }
      }
    }
  }

  OCTAVO_DEVICE static void Reset(State& state) {
    OCTAVO_UNROLL
    for (int i = 0; i < kDimTiles; ++i) {
      OCTAVO_UNROLL
      for (int j = 0; j < 4; ++j) state.sums[i][j] = 0;
    }
    OCTAVO_UNROLL
    for (int half = 0; half < 2; ++half) state.rows[half] = {FloatFromBits(kMinusInfinity), 0};
  }

  // scores[n][i] = q . k of this thread's rows and keys.
  OCTAVO_DEVICE static void Scores(const State& state, const std::byte* keys,
                                   float (&scores)[kKeyTiles][4]) {
    OCTAVO_UNROLL
    for (int n = 0; n < kKeyTiles; ++n) {
      OCTAVO_UNROLL
      for (int i = 0; i < 4; ++i) scores[n][i] = 0;
    }
    const int matrix = simt::Lane() / 8;
    const int in_8 = simt::Lane() % 8;
    const std::byte* rows = keys + (matrix / 2 * 8 + in_8) * Tile::kRowBytes;
    OCTAVO_UNROLL
    for (int step = 0; step < kDim / 16; ++step) {
      OCTAVO_UNROLL
      for (int pair = 0; pair < kKeyTiles / 2; ++pair) {
        uint32_t r[4];
        simt::LoadMatrix4(
            r, rows + pair * 16 * Tile::kRowBytes + Tile::ChunkOffset(in_8, step * 2 + matrix % 2));
        const uint32_t low[2] = {r[0], r[1]};
        const uint32_t high[2] = {r[2], r[3]};
        simt::MmaBf16(scores[pair * 2], state.query[step], low);
        simt::MmaBf16(scores[pair * 2 + 1], state.query[step], high);
      }
    }
  }

  // Scores become F32 probabilities under the new maxima; what was summed before is scaled.
  OCTAVO_DEVICE void Softmax(State& state, int32_t first_key, float (&scores)[kKeyTiles][4]) const {
    OCTAVO_UNROLL
    for (int half = 0; half < 2; ++half) {
      float max = state.rows[half].max;
      OCTAVO_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        OCTAVO_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int32_t key = first_key + n * 8 + simt::Lane() % 4 * 2 + i;
          float& score = scores[n][half * 2 + i];
          score = key <= state.last_key[half] ? score * call.scale * call.key_scale
                                              : FloatFromBits(kMinusInfinity);
          max = score > max ? score : max;
        }
      }
      OCTAVO_UNROLL
      for (int mask = 1; mask <= 2; mask *= 2) {
        const float other = simt::ShuffleXor(max, mask);
        max = other > max ? other : max;
      }
      const bool any = max > FloatFromBits(kMinusInfinity);
      const float before = any ? Exp(state.rows[half].max - max) : 1.0f;
      state.rows[half].max = max;
      float sum = 0;
      OCTAVO_UNROLL
      for (int n = 0; n < kKeyTiles; ++n) {
        OCTAVO_UNROLL
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][half * 2 + i];
          score = any ? Exp(score - max) : 0.0f;
          sum += score;
        }
      }
      state.rows[half].sum = state.rows[half].sum * before + sum;
      OCTAVO_UNROLL
      for (int n = 0; n < kDimTiles; ++n) {
        OCTAVO_UNROLL
        for (int i = 0; i < 2; ++i) state.sums[n][half * 2 + i] *= before;
      }
    }
  }

  OCTAVO_DEVICE static void AddValues(State& state, const std::byte* values,
                                      const float (&p)[kKeyTiles][4]) {
    const int matrix = simt::Lane() / 8;
    const int in_8 = simt::Lane() % 8;
    const std::byte* rows = values + (matrix % 2 * 8 + in_8) * Tile::kRowBytes;
    OCTAVO_UNROLL
    for (int step = 0; step < kAttentionTile / 16; ++step) {
      const uint32_t a[4] = {PackBf16(p[step * 2][0], p[step * 2][1]),
                             PackBf16(p[step * 2][2], p[step * 2][3]),
                             PackBf16(p[step * 2 + 1][0], p[step * 2 + 1][1]),
                             PackBf16(p[step * 2 + 1][2], p[step * 2 + 1][3])};
      OCTAVO_UNROLL
      for (int pair = 0; pair < kDimTiles / 2; ++pair) {
        uint32_t r[4];
        simt::LoadMatrix4Transposed(
            r, rows + step * 16 * Tile::kRowBytes + Tile::ChunkOffset(in_8, pair * 2 + matrix / 2));
        const uint32_t low[2] = {r[0], r[1]};
        const uint32_t high[2] = {r[2], r[3]};
        simt::MmaBf16(state.sums[pair * 2], a, low);
        simt::MmaBf16(state.sums[pair * 2 + 1], a, high);
      }
    }
  }

  // The split under way joins those before it, which lie in `merged` (this thread's, strided).
  OCTAVO_DEVICE static void Merge(State& state, float* merged, bool first) {
    OCTAVO_UNROLL
    for (int half = 0; half < 2; ++half) {
      float sum = state.rows[half].sum;
      OCTAVO_UNROLL
      for (int mask = 1; mask <= 2; mask *= 2) sum += simt::ShuffleXor(sum, mask);
      const bool seen = state.rows[half].max > FloatFromBits(kMinusInfinity);
      if (first) {
        state.merged[half] = {state.rows[half].max, sum};
      } else if (!seen) {
        continue;  // what lies in `merged` stays
      }
      MergeFactors factors{0, 0, 1};
      if (!first) {
        factors = FactorsOf(state.merged[half].max, state.rows[half].max);
        state.merged[half] = {factors.max,
                              state.merged[half].sum * factors.into + sum * factors.from};
      }
      OCTAVO_UNROLL
      for (int n = 0; n < kDimTiles; ++n) {
        OCTAVO_UNROLL
        for (int i = half * 2; i < half * 2 + 2; ++i) {
          float& to = merged[(n * 4 + i) * kThreads];
          to = first ? state.sums[n][i] : to * factors.into + state.sums[n][i] * factors.from;
        }
      }
    }
  }

  OCTAVO_DEVICE void Write(const State& state, const float* merged, const AttentionItem& item,
                           const AttentionSpan& span, int64_t kv_head) const {
    OCTAVO_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int local = simt::Warp() * 16 + simt::Lane() / 4 + half * 8;
      if (state.last_key[half] < 0) continue;
      const RowSums& row = state.merged[half];
      float* slot = item.partial >= 0 ? SlotOf(call, item.partial, kv_head) : nullptr;
      uint16_t* out = slot == nullptr
                          ? call.out + RowOffset(call, span, item.row_begin + local, kv_head)
                          : nullptr;
      OCTAVO_UNROLL
      for (int n = 0; n < kDimTiles; ++n) {
        OCTAVO_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int column = n * 8 + simt::Lane() % 4 * 2 + i;
          const float sum = merged[(n * 4 + half * 2 + i) * kThreads];
          if (slot != nullptr) {
            slot[local * kAttentionHeadMax + column] = sum;
          } else if (column < call.pages.head_dim) {
            out[column] = Result(sum, row.sum, call.value_scale);
          }
        }
      }
      if (slot != nullptr && simt::Lane() % 4 == 0) {
        float* figures = slot + kAttentionRows * kAttentionHeadMax + local * 2;
        figures[0] = row.max;
        figures[1] = row.sum;
      }
    }
  }

  OCTAVO_DEVICE void operator()() const {
    constexpr int32_t kTilesOfSplit = kAttentionSplit / kAttentionTile;
    const AttentionItem item = call.items[simt::Block()];
    const AttentionSpan span = call.spans[item.span];
    const int32_t* table = call.tables + item.span * call.table_stride;
    const int64_t kv_head = simt::BlockRow();
    auto* shared = simt::SharedMemory<std::byte>();
    float* merged = reinterpret_cast<float*>(shared + 4 * Tile::kBytes) + simt::ThreadIndex();

    State state;
    LoadQueries(state, span, item.row_begin, kv_head);
    Reset(state);
    const int64_t rows = span.count * call.group;
    const int64_t last_row =
        (item.row_begin + kAttentionRows < rows ? item.row_begin + kAttentionRows : rows) - 1;
    const int32_t last_key = PositionOf(span, last_row, call.group);
    const int32_t begin = item.split_begin * kTilesOfSplit;
    const int32_t tiles = last_key / kAttentionTile + 1;
    const int32_t end =
        item.split_end * kTilesOfSplit < tiles ? item.split_end * kTilesOfSplit : tiles;
    Fill(shared, span, table, begin, kv_head);
    for (int32_t tile = begin; tile < end; ++tile) {
      if (tile + 1 < end) {
        Fill(shared, span, table, tile + 1, kv_head);
        simt::WaitCopies<1>();
      } else {
        simt::WaitCopies<0>();
      }
      simt::SyncBlock();
      const std::byte* keys = shared + tile % 2 * 2 * Tile::kBytes;
      float scores[kKeyTiles][4];
      Scores(state, keys, scores);
      Softmax(state, tile * kAttentionTile, scores);
      AddValues(state, keys + Tile::kBytes, scores);
      if ((tile + 1) % kTilesOfSplit == 0 || tile + 1 == end) {
        Merge(state, merged, tile / kTilesOfSplit == item.split_begin);
        Reset(state);
      }
      simt::SyncBlock();  // the buffer is free
    }
    Write(state, merged, item, span, kv_head);
  }
};

namespace {

template <int kDim, bool kFp8>
void LaunchItems(const AttentionCall& call, simt::Stream stream) {
  using Kernel = AttentionKernel<kDim, kFp8>;
  simt::Launch(Kernel{call},
               {.blocks = call.item_count,
                .rows = static_cast<int>(call.pages.kv_heads),
                .shared_bytes = Kernel::kSharedBytes},
               stream);
}

}  // namespace

void Launch(const AttentionCall& call, simt::Stream stream) {
  if (call.pages.head_dim <= 64) {
    call.pages.fp8 ? LaunchItems<64, true>(call, stream) : LaunchItems<64, false>(call, stream);
  } else {
    call.pages.fp8 ? LaunchItems<128, true>(call, stream) : LaunchItems<128, false>(call, stream);
  }
  LaunchMerges(call, stream);
}

}  // namespace octavo::cuda
