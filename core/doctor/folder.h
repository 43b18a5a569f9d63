#pragma once

// A checkpoint folder as it lies there. Where a loader stops at the first thing that is wrong, this
// goes on: what cannot be read is kept as the error that says so.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/checkpoint/index.h"
#include "core/store/store.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/types.pb.h"

namespace octavo {

struct FolderFile {
  std::string name;
  bool present = false;  // false: only the index names it
  bool indexed = true;   // false: there is an index, and it does not name this file
  absl::Status status;   // not OK: its header cannot be read
  std::vector<v1::TensorSpec> tensors;
};

// How many elements of a tensor are such; elements that were not looked at are not counted.
struct ValueCounts {
  uint64_t not_finite = 0;
  uint64_t zero = 0;      // of scales
  uint64_t negative = 0;  // of scales
  uint64_t tiny = 0;      // of scales: positive, below kTinyScale
  uint64_t lowest = 0;    // of INT8 codes: -128
};
// A row of weights is nowhere as small as 448 of this.
inline constexpr float kTinyScale = 1e-20f;

struct Folder {
  std::string dir;
  std::set<std::string, std::less<>> names;  // of regular files
  absl::Status config_status;                // not OK: config.json is missing or no JSON object
  nlohmann::ordered_json config;
  absl::StatusOr<v1::ModelSpec> model = absl::UnknownError("not read");
  absl::Status index_status;
  std::optional<TensorIndex> index;
  std::vector<FolderFile> files;  // of tensors, sorted by name
  // The values of scales and norms, and those of all other tensors if they were asked for.
  std::map<std::string, ValueCounts> values;
  // Tensors that lie in two files with other bytes in each.
  std::set<std::string, std::less<>> differing;
  // Embedding and head are both there and the same bytes.
  bool same_head = false;
  // What Octavo's own reader says of it.
  absl::Status loader;
};

enum class Depth {
  kHeaders,  // and scales and vectors
  kValues,   // every tensor: NaN codes, infinite weights
};

// kInputMissing if there is no such folder, kIo; everything else is in the result.
absl::StatusOr<Folder> ReadFolder(const Store& store, const std::string& dir, Depth depth);

}  // namespace octavo
