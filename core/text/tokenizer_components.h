#pragma once

// The parts of tokenizer.json other than the vocabulary: each function reads one component.

#include "absl/status/status.h"
#include "core/text/json_bounded.h"
#include "core/text/tokenizer_parts.h"

namespace octavo {

inline constexpr std::string_view kTokenizerJson = "tokenizer.json";

// kBadCheckpoint and kUnsupported in this file.
absl::Status TokenizerError(std::string_view what);
absl::Status TokenizerUnsupported(std::string_view what);

// A Boolean member; `otherwise` when it is missing or null, an error when it is something else.
absl::StatusOr<bool> ReadBool(const nlohmann::json& object, std::string_view name, bool otherwise);
// A string member that must be there.
absl::StatusOr<std::string> ReadString(const nlohmann::json& object, std::string_view name);

// A string of `bytes_min` to kStepBytesMax bytes; `what` names the component in errors.
absl::StatusOr<std::string> ReadStepText(const nlohmann::json& text, std::string_view what,
                                         size_t bytes_min);
// The "pattern" of a Replace: {"String": ...}, of at least one byte.
absl::StatusOr<std::string> ReadStringPattern(const nlohmann::json& step, std::string_view what);
// The components of a Sequence, or the component itself. `list` is the name of the member that
// lists them.
absl::StatusOr<std::vector<const nlohmann::json*>> StepsOf(const nlohmann::json& component,
                                                           std::string_view what,
                                                           std::string_view list);

absl::Status ReadNormalizer(const nlohmann::json& normalizer, Normalizer* out);
// Sets `symbols`, too: bytes with ByteLevel, otherwise characters.
absl::Status ReadPreTokenizer(const nlohmann::json& pre_tokenizer, TokenizerParts* parts);
// After the pre-tokenizer, with which it must agree.
absl::Status ReadDecoder(const nlohmann::json& decoder, TokenizerParts* parts);
// Needs the vocabulary: ids must exist.
absl::Status ReadPostProcessor(const nlohmann::json& post_processor, TokenizerParts* parts);

}  // namespace octavo
