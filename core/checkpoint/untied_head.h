#pragma once

// Giving a model whose output head is its embedding a head of its own, so that the head can be
// quantized while the embedding stays. That is how readers have it too: an eight-bit tensor cannot
// be two things at once, and with "tie_word_embeddings": true they look for no head at all.

#include "absl/status/statusor.h"

namespace octavo {

struct Checkpoint;

// `tied` as if it held the head as a tensor: the same bytes of the same file as the embedding,
// under the family's name for a head; the model and config.json say that they are not tied. A stray
// head that the folder has goes, since nobody reads it. REQUIRES tied.model.tied_embeddings().
absl::StatusOr<Checkpoint> WithHeadOfItsOwn(const Checkpoint& tied);

}  // namespace octavo
