#pragma once

// What a quantization_config says of modules, whatever its dialect. Private to core/checkpoint.

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
  std::vector<std::string> ignored_globs;
  bool only_layers = false;  // the head and routers stay, whether they are named or not
  bool fp8_cache = false;    // keys and values have scales (cache_scales.h)
  std::string_view block_scale = ".weight_scale";  // follows a module in the name of block scales

  // Null: not quantized.
  const v1::Scheme* SchemeOf(const std::string& module) const;
};

// Reads the value of "quantization_config" by its quant_method. kBadCheckpoint, kUnsupported as
// ReadQuantization.
absl::StatusOr<ModuleSchemes> ReadModuleSchemes(const nlohmann::ordered_json& config);

// The dialects. `config` is an object of that quant_method.
absl::StatusOr<ModuleSchemes> ReadCompressedTensors(const nlohmann::ordered_json& config);
absl::StatusOr<ModuleSchemes> ReadFp8(const nlohmann::ordered_json& config);
absl::StatusOr<ModuleSchemes> ReadQuark(const nlohmann::ordered_json& config);

// Adds the list of kept modules under `key`, if there is one. With `globs`, * and ? are patterns.
// Regular expressions ("re:") are kUnsupported.
absl::Status ReadKept(const nlohmann::ordered_json& config, const char* key, bool globs,
                      ModuleSchemes* modules);

// kUnsupported where Quark's section `export` says that weights are not stored in eight bits.
absl::Status CheckExport(const nlohmann::ordered_json& exported);

}  // namespace octavo
