#pragma once

// What a rank has executed, as one digest: every rank folds each step (index, chunks, tokens, block
// tables) into it, and the leader compares. A difference means that ranks ran different things.

#include <cstdint>

#include "core/base/checksum.h"
#include "octavo/v1/engine.pb.h"

namespace octavo {

class StepState {
 public:
  // Folds `step` in and returns the digest of everything so far.
  v1::Digest Advance(const v1::Step& step);

 private:
  Digest128 state_;
};

// XXH3-128 of one row of F32 logits, as little-endian bytes.
v1::Digest DigestOfRow(const float* row, size_t count);

bool Equal(const v1::Digest& a, const v1::Digest& b);

}  // namespace octavo
