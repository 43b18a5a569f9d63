#pragma once

// What `octavo inspect` and `octavo doctor` say about a checkpoint, as data.

#include <cstdint>
#include <string>
#include <vector>

#include "core/checkpoint/checkpoint.h"
#include "octavo/v1/model.pb.h"

namespace octavo {

// Tensors of one role with the same dtype and shape.
struct RoleSummary {
  v1::TensorRole role = v1::ROLE_UNSPECIFIED;
  v1::DType dtype = v1::DTYPE_UNSPECIFIED;
  std::vector<int64_t> shape;
  std::string example;  // the first tensor's name
  uint64_t count = 0;
  uint64_t parameters = 0;
  uint64_t bytes = 0;
};

struct DTypeSummary {
  v1::DType dtype = v1::DTYPE_UNSPECIFIED;
  uint64_t tensors = 0;
  uint64_t parameters = 0;
  uint64_t bytes = 0;
};

// A thing a reader of some format would stumble over; not an error of the checkpoint.
struct Remark {
  std::string tensor;  // empty: the checkpoint as a whole
  std::string text;
};

struct CheckpointSummary {
  std::vector<RoleSummary> roles;    // in model order of first appearance
  std::vector<DTypeSummary> dtypes;  // by dtype number, scales included
  uint64_t tensors = 0;              // scales included
  uint64_t parameters = 0;           // of weights, without scales; a tied head is not counted again
  uint64_t bytes = 0;                // of tensors
  uint64_t file_bytes = 0;           // of the tensor files
  uint64_t scale_tensors = 0;
  uint64_t largest_tensor_bytes = 0;
  std::string largest_tensor;
  uint64_t kv_bytes_per_token = 0;  // BF16 cache, all layers
  std::vector<Remark> remarks;
};

CheckpointSummary Summarize(const Checkpoint& checkpoint);

// "128.0 MiB", "576 B".
std::string HumanBytes(uint64_t bytes);
// "134.5 M", "8.03 B".
std::string HumanCount(uint64_t count);

}  // namespace octavo
