#pragma once

// A quantized folder in another dialect: codes go over byte for byte, scales get the names, shapes
// and types that the other dialect has for them, quantization_config is written anew. Or without
// any: weights of the model's own type again.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/store/store.h"

namespace octavo {

struct Conversion {
  std::string from;  // the dialect that the source says
  uint64_t tensors = 0;
  uint64_t scales = 0;  // of these
  uint64_t bytes = 0;   // of the tensor files written
};

// Staged beside `out_dir` and renamed; `out_dir` must not exist (kOutputExists). kBadRecipe with
// the reason where `dialect` cannot say what the folder holds (core/scheme/legality.h);
// kUnsupported for a folder that is not quantized; kNonFinite for a scale that is no positive
// number. Scales keep their value exactly: BF16 and F16 ones become F32 where the dialect wants
// that, F32 ones stay F32. The manifest and the card of the source, which speak of other bytes, do
// not go along.
absl::StatusOr<Conversion> ConvertDialect(Store& store, const std::string& dir,
                                          std::string_view dialect, const std::string& out_dir);

// Every quantized weight as code * scale, in F32 and then rounded to the dtype that config.json
// says (BF16 where that is none): a source for any recipe. Scales, also of inputs and caches, and
// quantization_config are left out. Errors as above, and kNonFinite for a weight that the dtype
// cannot hold. Memory: a few MiB and the scales of one weight.
absl::StatusOr<Conversion> Dequantize(Store& store, const std::string& dir,
                                      const std::string& out_dir);

}  // namespace octavo
