#include "core/checkpoint/module_schemes.h"

#include <algorithm>

#include "core/base/status.h"
#include "core/checkpoint/quantization_json.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {

using nlohmann::ordered_json;

const v1::Scheme* ModuleSchemes::SchemeOf(const std::string& module) const {
  if (ignored.contains(module)) return nullptr;
  if (std::any_of(ignored_globs.begin(), ignored_globs.end(),
                  [&](const std::string& glob) { return GlobMatches(glob, module); })) {
    return nullptr;
  }
  const auto found = by_module.find(module);
  if (found != by_module.end()) return &schemes[found->second];
  return all_linear ? &schemes[*all_linear] : nullptr;
}

absl::StatusOr<ModuleSchemes> ReadModuleSchemes(const ordered_json& config) {
  if (!config.is_object()) return BadQuantization("it is not an object");
  const std::string method = TextMember(config, "quant_method");
  if (method == kCompressedTensors) return ReadCompressedTensors(config);
  if (method == kFp8Dialect) return ReadFp8(config);
  if (method == kQuarkDialect) return ReadQuark(config);
  return UnsupportedQuantization(fmt::format("quant_method '{}' is not handled; {} are", method,
                                             fmt::join(DialectNames(), ", ")));
}

absl::Status ReadKept(const ordered_json& config, const char* key, bool globs,
                      ModuleSchemes* modules) {
  const ordered_json* list = FindMember(config, key);
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return BadQuantization(fmt::format("{} is not a list", key));
  for (const ordered_json& item : *list) {
    if (!item.is_string()) return BadQuantization(fmt::format("an item of {} is not text", key));
    const std::string text = item.get<std::string>();
    if (text.starts_with("re:")) {
      return UnsupportedQuantization(fmt::format("{} '{}' is a pattern", key, text));
    }
    if (globs && text.find_first_of("*?") != std::string::npos) {
      modules->ignored_globs.push_back(text);
    } else {
      modules->ignored.insert(text);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckExport(const ordered_json& exported) {
  if (!exported.is_object()) return BadQuantization("export is not an object");
  const std::string format = TextMember(exported, "weight_format");
  if (format.empty() || format == "real_quantized") return absl::OkStatus();
  return UnsupportedQuantization(
      fmt::format("export.weight_format '{}': weights are not quantized", format));
}

}  // namespace octavo
