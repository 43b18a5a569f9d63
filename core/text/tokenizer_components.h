#pragma once

// The parts of tokenizer.json other than the vocabulary: each function reads one component.

#include "absl/status/status.h"
#include "core/text/json_bounded.h"
#include "core/text/tokenizer_json.h"

namespace octavo {

inline constexpr std::string_view kTokenizerJson = "tokenizer.json";

// kBadCheckpoint and kUnsupported in this file.
absl::Status TokenizerError(std::string_view what);
absl::Status TokenizerUnsupported(std::string_view what);

// A Boolean member; `otherwise` when it is missing or null, an error when it is something else.
absl::StatusOr<bool> ReadBool(const nlohmann::json& object, std::string_view name, bool otherwise);
// A string member that must be there.
absl::StatusOr<std::string> ReadString(const nlohmann::json& object, std::string_view name);

absl::Status CheckNormalizer(const nlohmann::json& normalizer);
absl::Status ReadPreTokenizer(const nlohmann::json& pre_tokenizer, PreTokenizer* out);
absl::Status CheckDecoder(const nlohmann::json& decoder);
// Needs the vocabulary: ids must exist.
absl::Status ReadPostProcessor(const nlohmann::json& post_processor, TokenizerParts* parts);

}  // namespace octavo
