#pragma once

// What quantization_config says of every linear layer, in any of the three dialects. Unlike the
// readers in core/checkpoint this one takes what Octavo does not handle, too: asymmetric numbers,
// regular expressions, static INT8 inputs.

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/doctor/finding.h"
#include "core/tensor/dtype.h"
#include "nlohmann/json.hpp"

namespace octavo {

// Sizes of blocks outside 1 to this are none.
inline constexpr int64_t kBlockMax = 1 << 20;

// How the scales of a weight lie over it.
enum class Grid : uint8_t { kTensor, kChannel, kBlock, kOther };

// What is said of a layer's weight and input.
struct Said {
  DType codes = DType::kInvalid;  // kInvalid: packed, or another width than eight bits
  Grid grid = Grid::kTensor;
  int64_t block_rows = 0;  // 0: not said, or no size
  int64_t block_columns = 0;
  bool static_input = false;
  bool input_open = false;  // nobody can tell whether its input has a scale: one may be there
  int64_t input_group = 0;  // inputs are cut into groups of so many; 0: not
  bool asymmetric = false;  // weight_zero_point is part of it
  size_t group = 0;         // equal: the same words

  void SetBlock(int64_t rows, int64_t columns);
};

enum class Dialect : uint8_t { kNone, kCompressedTensors, kFp8, kQuark };
std::string_view Name(Dialect dialect);

struct Announcement {
  Dialect dialect = Dialect::kNone;  // kNone: no quantization_config, or one that nobody knows
  bool present = false;              // there is a quantization_config
  std::vector<Said> groups;
  absl::flat_hash_map<std::string, size_t> by_module;
  std::optional<size_t> all_linear;
  std::set<std::string, std::less<>> kept;
  std::vector<std::string> kept_globs;
  bool patterns = false;     // regular expressions say what is kept or meant: codes decide
  bool layers_only = false;  // heads and routers stay without being named
  bool cache = false;        // keys and values are said to have scales
  bool cache_known = true;   // false: config.json says neither yes nor no
  bool bitmasks = false;     // 2:4 weights are said to be stored as sparse-24-bitmask
  bool packed = false;       // several codes in an element of weight_packed
  std::string_view weight_scale = ".weight_scale";

  bool Keeps(std::string_view module) const;
  // Null: stays as it is. `eight_bits`: whether its weight is stored so, which decides where
  // patterns do.
  const Said* Of(std::string_view module, bool eight_bits) const;
};

// `config`: the whole config.json. What a reader stumbles over goes into `findings`.
Announcement ReadAnnouncement(const nlohmann::ordered_json& config, Findings* findings);

// The parts of it: the value of quantization_config. Private to this room.
void AnnounceCompressedTensors(const nlohmann::ordered_json& config, Announcement* out,
                               Findings* findings);
void AnnounceFp8(const nlohmann::ordered_json& config, Announcement* out, Findings* findings);
void AnnounceQuark(const nlohmann::ordered_json& config, Announcement* out, Findings* findings);
// A finding about the key `key` of quantization_config; empty: about the whole of it.
void AddAnnounced(Symptom symptom, std::string_view key, std::string what, Findings* findings);
// Names, globs (* and ?) and patterns ("re:") of modules that stay.
void AnnounceKept(const nlohmann::ordered_json& config, const char* key, Announcement* out,
                  Findings* findings);

}  // namespace octavo
