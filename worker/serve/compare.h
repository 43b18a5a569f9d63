#pragma once

// Two models over one sequence, position by position: what quantizing changed. Rows of logits of
// both come in runs of any length; whole distributions are compared (kernels/divergence.h).

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "octavo/v1/compare.pb.h"
#include "worker/serve/engine_call.h"

namespace octavo {

// The next rows of a sequence: the positions that follow those already given.
using NextRows = std::function<absl::StatusOr<EngineCall::Rows>()>;

struct CompareParts {
  NextRows reference;
  NextRows model;
  bool reference_first = false;  // whose rows are asked for first; then whoever is behind
  int64_t vocab_size = 0;
  int64_t layer_count = 0;  // 0: logits only. Otherwise rows come with residual streams
  int64_t hidden_size = 0;
  Isa isa = BestIsa();  // the same bits for all
};

// Compares positions 0..ids.size() - 2: row t of each against ids[t + 1]. Memory: one run of each.
// Sums over residual streams are F64, elements within a position and then positions ascending: the
// same bits however the rows are cut.
// Errors: those of the sources; kStateMismatch for rows of another position or length; kNonFinite.
// REQUIRES: two ids or more, all inside the vocabulary.
absl::StatusOr<v1::Comparison> CompareSequence(std::span<const int32_t> ids,
                                               const CompareParts& parts);

}  // namespace octavo
