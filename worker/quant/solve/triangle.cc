#include "worker/quant/solve/triangle.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/units.h"

namespace octavo {
namespace {

constexpr int64_t kBlock = 128;         // rows that are finished together
constexpr int64_t kChunkColumns = 256;  // of one task

// Calls body(begin, end) for chunks of columns that tile [begin, end).
template <typename Body>
void ForChunks(ThreadPool* pool, int64_t begin, int64_t end, Body body) {
  if (begin >= end) return;
  pool->ParallelFor(CeilDiv(end - begin, kChunkColumns), 1,
                    [&](int64_t first, int64_t last, int /*thread*/) {
                      for (int64_t chunk = first; chunk < last; ++chunk) {
                        const int64_t from = begin + chunk * kChunkColumns;
                        body(from, std::min(from + kChunkColumns, end));
                      }
                    });
}

// Row k of G, columns [begin, end), less what rows [first, k) of G give.
void SubtractRows(const Triangle& g, const MatmulF64Ops& ops, int64_t first, int64_t k,
                  int64_t begin, int64_t end) {
  ops.subtract_product(
      {1, end - begin, k - first, g.Row(first) + k, 0, g.stride, g.Row(first) + begin, g.stride},
      g.Row(k) + begin, g.stride);
}

void Divide(double* row, int64_t count, double by) {
  for (int64_t j = 0; j < count; ++j) row[j] /= by;
}

// The block on the diagonal. `diagonals`: of M, from row `first` on.
bool FactorDiagonal(const Triangle& g, const MatmulF64Ops& ops, int64_t first, int64_t last,
                    const double* diagonals) {
  const double least = static_cast<double>(g.size) * 0x1p-52;
  for (int64_t k = first; k < last; ++k) {
    SubtractRows(g, ops, first, k, k, last);
    double* row = g.Row(k);
    const double pivot = row[k];
    // Written so that a NaN fails too.
    if (!(pivot > least * diagonals[k - first] && std::isfinite(pivot))) return false;
    row[k] = std::sqrt(pivot);
    Divide(row + k + 1, last - k - 1, row[k]);
  }
  return true;
}

// Rows [first, last) right of their block on the diagonal.
void FactorPanel(const Triangle& g, const MatmulF64Ops& ops, int64_t first, int64_t last,
                 ThreadPool* pool) {
  ForChunks(pool, last, g.size, [&](int64_t begin, int64_t end) {
    for (int64_t k = first; k < last; ++k) {
      SubtractRows(g, ops, first, k, begin, end);
      Divide(g.Row(k) + begin, end - begin, g.Row(k)[k]);
    }
  });
}

// What rows [first, last) take from all that is right of and below them.
void UpdateTrailing(const Triangle& g, const MatmulF64Ops& ops, int64_t first, int64_t last,
                    ThreadPool* pool) {
  const int64_t blocks = CeilDiv(g.size - last, kBlock);
  pool->ParallelFor(blocks, 1, [&](int64_t begin, int64_t end, int /*thread*/) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t i = last + block * kBlock;
      const int64_t rows = std::min(kBlock, g.size - i);
      for (int64_t j = i; j < g.size; j += kChunkColumns) {
        ops.subtract_product({rows, std::min(kChunkColumns, g.size - j), last - first,
                              g.Row(first) + i, 1, g.stride, g.Row(first) + j, g.stride},
                             g.Row(i) + j, g.stride);
      }
    }
  });
}

// Rows [first, last) of V, columns [begin, end), from what rows below have left of them: the last
// row first. `panel` as in InvertColumns.
void SolveColumns(const Triangle& v, const MatmulF64Ops& ops, int64_t first, int64_t last,
                  const double* panel, int64_t panel_stride, int64_t begin, int64_t end) {
  for (int64_t k = last - 1; k >= first; --k) {
    const double* row = panel + (k - first) * panel_stride;
    ops.subtract_product({1, end - begin, last - 1 - k, row + (last - 1 - first), 0, -1,
                          v.Row(last - 1) + begin, -v.stride},
                         v.Row(k) + begin, v.stride);
    Divide(v.Row(k) + begin, end - begin, row[k - first]);
  }
}

// Columns [begin, end) of V, rows [first, last), right of the block on the diagonal. `panel`: these
// rows of G, [row][panel_stride], from column `first` on.
void InvertColumns(const Triangle& v, const MatmulF64Ops& ops, int64_t first, int64_t last,
                   const double* panel, int64_t panel_stride, int64_t begin, int64_t end) {
  for (int64_t k = first; k < last; ++k) std::fill(v.Row(k) + begin, v.Row(k) + end, 0.0);
  // Rows of V from the last that reaches these columns down to the block's end. Below the diagonal
  // of V are zeros: they change no sum.
  for (int64_t bottom = end; bottom > last;) {
    const int64_t top = std::max(bottom - kBlock, last);
    ops.subtract_product({last - first, end - begin, bottom - top, panel + (bottom - 1 - first),
                          panel_stride, -1, v.Row(bottom - 1) + begin, -v.stride},
                         v.Row(first) + begin, v.stride);
    bottom = top;
  }
  SolveColumns(v, ops, first, last, panel, panel_stride, begin, end);
}

// The block on the diagonal itself.
void InvertDiagonal(const Triangle& v, const MatmulF64Ops& ops, int64_t first, int64_t last,
                    const double* panel, int64_t panel_stride) {
  for (int64_t k = first; k < last; ++k) {
    std::fill(v.Row(k) + first, v.Row(k) + last, 0.0);
    v.Row(k)[k] = 1;
  }
  SolveColumns(v, ops, first, last, panel, panel_stride, first, last);
}

}  // namespace

int64_t TriangleStride(int64_t size) { return RoundUp(size, 8) + 8; }

bool FactorTriangle(const Triangle& m, const MatmulF64Ops& ops, ThreadPool* pool,
                    const std::stop_token& stop) {
  std::vector<double> diagonals(static_cast<size_t>(m.size));
  for (int64_t i = 0; i < m.size; ++i) diagonals[static_cast<size_t>(i)] = m.Row(i)[i];
  for (int64_t first = 0; first < m.size; first += kBlock) {
    const int64_t last = std::min(first + kBlock, m.size);
    if (stop.stop_requested()) return false;
    if (!FactorDiagonal(m, ops, first, last, diagonals.data() + first)) return false;
    FactorPanel(m, ops, first, last, pool);
    UpdateTrailing(m, ops, first, last, pool);
  }
  for (int64_t i = 0; i < m.size; ++i) std::fill(m.Row(i), m.Row(i) + i, 0.0);
  return true;
}

absl::Status InvertTriangle(const Triangle& g, const MatmulF64Ops& ops, Arena* arena,
                            ThreadPool* pool, const std::stop_token& stop) {
  const int64_t panel_stride = g.stride;
  OCTAVO_ASSIGN_OR_RETURN(
      Buffer buffer, arena->Allocate(static_cast<uint64_t>(kBlock * panel_stride) * sizeof(double),
                                     "rows of a Hessian's factor"));
  auto* panel = buffer.as<double>();
  for (int64_t first = (g.size - 1) / kBlock * kBlock; first >= 0; first -= kBlock) {
    const int64_t last = std::min(first + kBlock, g.size);
    if (stop.stop_requested()) return MakeError(Reason::kCancelled, "the task was stopped");
    for (int64_t k = first; k < last; ++k) {
      std::copy(g.Row(k) + first, g.Row(k) + g.size, panel + (k - first) * panel_stride);
    }
    ForChunks(pool, last, g.size, [&](int64_t begin, int64_t end) {
      InvertColumns(g, ops, first, last, panel, panel_stride, begin, end);
    });
    InvertDiagonal(g, ops, first, last, panel, panel_stride);
  }
  return absl::OkStatus();
}

}  // namespace octavo
