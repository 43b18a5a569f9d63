#pragma once

// What a quantization_config says of modules, whatever its dialect.

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

struct ModuleSchemes {
  std::vector<v1::Scheme> schemes;
  absl::flat_hash_map<std::string, size_t> by_module;
  std::optional<size_t> all_linear;  // of every linear module that is not named
  std::set<std::string, std::less<>> ignored;
  bool fp8_cache = false;  // keys and values have scales (cache_scales.h)

  // Null: not quantized.
  const v1::Scheme* SchemeOf(const std::string& module) const {
    if (ignored.contains(module)) return nullptr;
    const auto found = by_module.find(module);
    if (found != by_module.end()) return &schemes[found->second];
    return all_linear ? &schemes[*all_linear] : nullptr;
  }
};

// The compressed-tensors dialect. kBadCheckpoint, kUnsupported as ReadQuantization.
absl::StatusOr<ModuleSchemes> ReadCompressedTensors(const nlohmann::ordered_json& config);

}  // namespace octavo
