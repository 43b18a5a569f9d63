#pragma once

// The storage `sparse-24-bitmask` of compressed-tensors (up to 0.14.0.1): a quantized matrix X of N
// rows and K columns that is 2:4 lies, instead of in X.weight, in
//
//   X.compressed  [N, K/2]          the dtype of the codes: two of every four columns
//   X.bitmask     [N, ceil(K/8)]    U8: which two (core/tensor/bare/two_of_four.h)
//   X.shape       [2, 1]            I64: N, K
//
// its scales as elsewhere, and config.json has a sparsity_config. To everything else such a matrix
// is one tensor X.weight of N x K whose spec has a bitmask.

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/checkpoint/safetensors.h"
#include "core/store/store.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/types.pb.h"

namespace octavo {

inline constexpr std::string_view kBitmaskFormat = "sparse-24-bitmask";

// True where a config.json says that its weights are stored so.
bool SaysBitmasks(const nlohmann::ordered_json& config);

// The value of "sparsity_config" of what is quantized but for the modules `kept`.
nlohmann::ordered_json SparsityConfigJson(const nlohmann::ordered_json& kept);

// The tensors that a weight is stored as: kept codes, bitmask, shape.
struct BitmaskParts {
  NewTensor kept, bits, shape;
};
BitmaskParts BitmaskPartsOf(std::string_view module, DType codes, int64_t rows, int64_t columns);

// The bytes of X.shape.
std::string BitmaskShapeBytes(int64_t rows, int64_t columns);

// Puts X.weight with a bitmask in the place of every X.compressed with its two companions; all
// other tensors stay. Errors, naming file and tensor: kBadCheckpoint where one of the three is
// missing or they do not fit together; kUnsupported where the codes are not of eight bits; as
// store.ReadAt.
absl::StatusOr<std::vector<v1::TensorSpec>> JoinBitmasks(const Store& store, const std::string& dir,
                                                         std::vector<v1::TensorSpec> tensors);

// Bytes that a tensor takes in its files.
uint64_t StoredBytes(const v1::TensorSpec& tensor);

// Rows [begin, begin + count) of a matrix of codes, all of their columns, as if it lay there in
// full. kBadCheckpoint where a bitmask does not keep two of four; as store.ReadAt.
absl::Status ReadCodeRows(const Store& store, const std::string& dir, const v1::TensorSpec& tensor,
                          int64_t begin, int64_t count, std::vector<std::byte>* codes);

}  // namespace octavo
