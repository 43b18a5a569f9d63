#pragma once

// Rows of an embedding by token id, on a GPU.

#include <cstdint>

#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

// out[row] = the embedding of ids[row], bit for bit, `columns` BF16 elements without gaps.
//
// A rank may hold a part of the vocabulary only: ids [begin, end), the first of which is row 0 of
// `table`. Rows of ids that lie elsewhere in it become +0, so that all ranks' rows merge by OR of
// their bits. An id outside of [0, vocabulary) gives +0 too, nothing is read for it, and `bad`
// becomes at least its row + 1; else `bad` stays as it is.
struct EmbedTokens {
  const int32_t* ids = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  const uint16_t* table = nullptr;
  int32_t begin = 0;
  int32_t end = 0;
  int32_t vocabulary = 0;
  uint16_t* out = nullptr;
  uint32_t* bad = nullptr;
};
void Launch(const EmbedTokens& call, simt::Stream stream);

}  // namespace octavo::cuda
