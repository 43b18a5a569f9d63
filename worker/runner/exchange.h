#pragma once

// What the ranks of a group tell one another inside a step. With one rank nothing is sent.

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "core/tensor/bare/tree.h"
#include "octavo/v1/plan.pb.h"
#include "worker/comm/communicator.h"
#include "worker/runner/linear.h"
#include "worker/runner/workspace.h"

namespace octavo {

// All ranks' pieces of one row-parallel product in tree order, and how they merge.
struct PieceMap {
  int64_t pieces_per_rank = 0;  // the most that a rank has; every rank sends that many
  std::vector<int> slots;       // piece i lies in slot slots[i] = rank * pieces_per_rank + index
  std::vector<MergeStep> steps;
};
// `runs`: each rank's run of the product's `units` units. `exact`: one piece per rank, any order.
PieceMap MapPieces(int units, std::span<const LeafRun> runs, bool exact);

class Exchange {
 public:
  Exchange(Communicator* communicator, Arena* arena) : communicator_(communicator), arena_(arena) {}

  int ranks() const { return communicator_->size(); }
  int rank() const { return communicator_->rank(); }

  // values[i] = maximum of values[i] over all ranks.
  absl::Status Max(std::span<uint32_t> values);

  // A buffer of `bytes` to fill, and then what every rank filled in: rank r's at r * bytes. Both
  // stay valid until the next call of SendBuffer.
  absl::StatusOr<std::byte*> SendBuffer(uint64_t bytes);
  absl::StatusOr<std::byte*> Gather();

 private:
  Communicator* communicator_;
  Arena* arena_;
  GrowingBuffer send_;
  GrowingBuffer all_;
  uint64_t bytes_ = 0;
};

}  // namespace octavo
