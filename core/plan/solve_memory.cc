#include "core/plan/solve_memory.h"

#include <algorithm>
#include <bit>

#include "core/tensor/bare/units.h"
#include "core/tensor/dtype_proto.h"

namespace octavo {
namespace {

constexpr int64_t kStrideMultiple = 16;  // of rows in memory
constexpr int64_t kPanelRows = 128;      // of F64, while a triangle is inverted

// Sums that the merging tree holds at most, the newest leaf included.
uint64_t SumsHeld(uint32_t leaves) {
  return leaves <= 1 ? 1 : static_cast<uint64_t>(std::bit_width(leaves - 1)) + 1;
}

}  // namespace

uint64_t HessianBytes(int64_t channels) {
  return static_cast<uint64_t>(channels * RoundUp(channels, kStrideMultiple)) * sizeof(float);
}

uint64_t HessianFileBytes(int64_t channels) {
  return static_cast<uint64_t>(channels * (channels + 1) / 2) * sizeof(float);
}

uint64_t HessianLeafBytes(int64_t channels) {
  return HessianBytes(channels) + static_cast<uint64_t>(2 * kHessianReadTokens * channels) * 2;
}

uint64_t SolveBytes(int64_t channels, uint32_t leaves, int threads) {
  const uint64_t sums =
      leaves == 0 ? HessianLeafBytes(channels) : SumsHeld(leaves) * HessianBytes(channels);
  // Rows of a triangle are a little longer than it is wide.
  const auto row = static_cast<uint64_t>(channels + 64) * sizeof(double);
  const uint64_t factor = (static_cast<uint64_t>(channels) + kPanelRows) * row;
  const uint64_t bands = static_cast<uint64_t>(channels) * 1024 * static_cast<uint64_t>(threads);
  return std::max(sums, HessianBytes(channels) + factor) + bands;
}

int64_t OutputsOf(const v1::Piece& piece) {
  return piece.transposed() ? piece.source().shape(1) : piece.row_end() - piece.row_begin();
}

uint64_t TurnedBytes(const v1::Piece& piece) {
  if (!piece.transposed()) return 0;
  const int64_t elements = (piece.row_end() - piece.row_begin()) * piece.source().shape(1);
  return static_cast<uint64_t>(elements * (ByteSize(FromProto(piece.source().dtype())) + 1));
}

uint64_t SenseBytes(int64_t channels, uint64_t weights, int threads) {
  constexpr uint64_t kSums = 128u << 10;
  const auto row = static_cast<uint64_t>(RoundUp(channels, int64_t{128}));
  const uint64_t tokens =
      static_cast<uint64_t>(kSenseTokens) * (2 * row * sizeof(float) + row / 32);
  const uint64_t tiles = 2 * row * kPanelRows * 2 + row / 128 * kPanelRows * sizeof(float) + kSums;
  const uint64_t rows = static_cast<uint64_t>(kHessianReadTokens) * row * 2;
  // Of a thread: a token, and two rows of weights.
  return tokens + weights * tiles + rows + static_cast<uint64_t>(threads) * row * 6;
}

}  // namespace octavo
