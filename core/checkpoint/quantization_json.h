#pragma once

// Reading a quantization_config: members that may be missing, and the errors about them. Private to
// core/checkpoint.

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace octavo {

// A member, or nullptr where it is absent or null or `object` is none.
const nlohmann::ordered_json* FindMember(const nlohmann::ordered_json& object, const char* key);
// A member's text, or nothing where it is no text.
std::string TextMember(const nlohmann::ordered_json& object, const char* key);

// kBadCheckpoint and kUnsupported, naming config.json.
absl::Status BadQuantization(std::string_view what);
absl::Status UnsupportedQuantization(std::string_view what);

}  // namespace octavo
