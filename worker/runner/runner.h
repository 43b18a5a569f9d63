#pragma once

// One rank's half of a model step: weights of its slices, its KV cache, and the forward pass. All
// ranks run the same steps in the same order (the leader decides them) and exchange through the
// Communicator; results are the same bits for any number of ranks, any chunking, any instruction
// set and any number of threads (docs/numerics.md sections 4 to 7).

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "octavo/v1/engine.pb.h"
#include "octavo/v1/plan.pb.h"
#include "worker/comm/communicator.h"
#include "worker/runner/weight_bytes.h"

namespace octavo {

struct RunnerOptions {
  int threads = 1;
  Isa isa = Isa::kReference;
  uint64_t memory_bytes = 0;  // budget of weights, cache and scratch; 0: what the plan says
};

// F32 logits, filled on rank 0 only: one row per requested position, in the order of the step's
// chunks and of positions within a chunk. The same of residual streams, after every layer.
struct Logits {
  int64_t rows = 0;
  int64_t vocab = 0;
  std::vector<float> values;             // [rows, vocab]
  std::vector<uint16_t> residuals = {};  // BF16 [requested positions, layers, hidden]
  // Of a mixture, by expert: tokens of the step that routers sent there, over all layers.
  std::vector<uint64_t> expert_tokens = {};
};

class ModelRunner {
 public:
  // Reads this rank's byte ranges from the checkpoint folder `dir`. `communicator` belongs to this
  // rank, has plan.rank_count ranks, and outlives the runner. Errors name file and tensor:
  // kInputMissing, kIo, kBadCheckpoint (a scale that is missing, not finite or not > 0; a NaN
  // code), kNonFinite (weights), kOutOfMemory. The memory of a step of plan.max_batched_tokens is
  // taken here; pages of the KV cache are when they are first written.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Load(const std::string& dir,
                                                           const v1::ServePlan& plan, uint32_t rank,
                                                           Communicator* communicator,
                                                           const RunnerOptions& options);
  ~ModelRunner();

  // Runs one step. Positions before a chunk's start must be in the cache under the same block
  // table. A step of any number of tokens is run whole; callers bound it
  // (ServePlan.max_batched_tokens). kBadRequest: a token outside the vocabulary, a position beyond
  // max_model_len, a block table too short or out of range (nothing was computed). kGroupLost: the
  // communicator failed. kNonFinite: an activation overflowed; the layer is named.
  absl::Status Run(const v1::Step& step, Logits* out);

  // Calls body(i, thread) once for every i below `count` on the threads of this runner
  // (RunnerOptions.threads), and returns when all are done. Not while a step runs.
  void Spread(int64_t count, const std::function<void(int64_t i, int thread)>& body);

  const v1::ServePlan& plan() const;
  uint32_t kv_block_count() const;
  uint64_t resident_bytes() const;
  WeightBytes weight_bytes() const;

 private:
  struct State;
  explicit ModelRunner(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace octavo
