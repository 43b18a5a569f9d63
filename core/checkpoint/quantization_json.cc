#include "core/checkpoint/quantization_json.h"

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {

using nlohmann::ordered_json;

const ordered_json* FindMember(const ordered_json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string TextMember(const ordered_json& object, const char* key) {
  const ordered_json* value = FindMember(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : "";
}

absl::Status BadQuantization(std::string_view what) {
  return MakeError(Reason::kBadCheckpoint, fmt::format("quantization_config: {}", what),
                   {.file = "config.json"});
}

absl::Status UnsupportedQuantization(std::string_view what) {
  return MakeError(Reason::kUnsupported, fmt::format("quantization_config: {}", what),
                   {.file = "config.json"}, "Octavo serves what `octavo quantize` writes");
}

}  // namespace octavo
