#include "worker/runner/exchange.h"

#include <algorithm>
#include <cstring>

#include "core/base/status.h"

namespace octavo {

PieceMap MapPieces(int units, std::span<const LeafRun> runs, bool exact) {
  PieceMap map;
  std::vector<std::vector<LeafRun>> by_rank;
  for (const LeafRun& run : runs) {
    by_rank.push_back(exact ? std::vector<LeafRun>{run} : MaximalSubtrees(units, run));
    map.pieces_per_rank =
        std::max(map.pieces_per_rank, static_cast<int64_t>(by_rank.back().size()));
  }
  std::vector<LeafRun> pieces;
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    for (size_t i = 0; i < by_rank[rank].size(); ++i) {
      pieces.push_back(by_rank[rank][i]);
      map.slots.push_back(static_cast<int>(rank) * static_cast<int>(map.pieces_per_rank) +
                          static_cast<int>(i));
    }
  }
  if (!exact) {
    map.steps = MergeSteps(units, pieces);
    return map;
  }
  for (int i = 1; i < static_cast<int>(pieces.size()); ++i) map.steps.push_back({0, i});
  return map;
}

absl::Status Exchange::Max(std::span<uint32_t> values) {
  if (ranks() == 1) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(std::byte * send, SendBuffer(values.size_bytes()));
  std::memcpy(send, values.data(), values.size_bytes());
  OCTAVO_ASSIGN_OR_RETURN(const std::byte* all, Gather());
  for (int rank = 0; rank < ranks(); ++rank) {
    const auto* theirs =
        reinterpret_cast<const uint32_t*>(all + static_cast<size_t>(rank) * values.size_bytes());
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::max(values[i], theirs[i]);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> Exchange::SendBuffer(uint64_t bytes) {
  bytes_ = bytes;
  OCTAVO_RETURN_IF_ERROR(send_.Reserve(arena_, bytes, "exchange buffer"));
  OCTAVO_RETURN_IF_ERROR(
      all_.Reserve(arena_, bytes * static_cast<uint64_t>(ranks()), "exchange buffer"));
  return send_.as<std::byte>();
}

absl::StatusOr<std::byte*> Exchange::Gather() {
  OCTAVO_RETURN_IF_ERROR(communicator_->AllGather(
      std::span(send_.as<std::byte>(), bytes_),
      std::span(all_.as<std::byte>(), bytes_ * static_cast<uint64_t>(ranks()))));
  return all_.as<std::byte>();
}

}  // namespace octavo
