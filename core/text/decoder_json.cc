#include "core/base/status.h"
#include "core/text/tokenizer_components.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

// A decoder in the style of SentencePiece has its steps in this order, each but the first at most
// once.
enum class Stage { kReplace, kByteFallback, kFuse, kStrip };

absl::StatusOr<Stage> StageOf(const std::string& type) {
  if (type == "Replace") return Stage::kReplace;
  if (type == "ByteFallback") return Stage::kByteFallback;
  if (type == "Fuse") return Stage::kFuse;
  if (type == "Strip") return Stage::kStrip;
  return TokenizerUnsupported(fmt::format("the decoder {}", type));
}

absl::Status ReadReplace(const Json& step, TokenizerParts* parts) {
  constexpr std::string_view kWhat = "decoder Replace";
  OCTAVO_RETURN_IF_ERROR(CheckMembers(step, kWhat, kTokenizerJson, {"type", "pattern", "content"}));
  OCTAVO_ASSIGN_OR_RETURN(std::string pattern, ReadStringPattern(step, kWhat));
  OCTAVO_ASSIGN_OR_RETURN(std::string content,
                          ReadStepText(MemberOrNull(step, "content"), kWhat, 0));
  if (content.size() > pattern.size()) {  // keeps what tokens stand for within bounds
    return TokenizerUnsupported("a decoder Replace that puts in more than it takes out");
  }
  parts->decoder_replaces.emplace_back(std::move(pattern), std::move(content));
  return absl::OkStatus();
}

absl::Status ReadStrip(const Json& step, DecodeRule* rule) {
  OCTAVO_RETURN_IF_ERROR(
      CheckMembers(step, "decoder Strip", kTokenizerJson, {"type", "content", "start", "stop"}));
  OCTAVO_ASSIGN_OR_RETURN(rule->strip, ReadStepText(MemberOrNull(step, "content"), "Strip", 1));
  if (rule->strip != LastCharacter(rule->strip)) {
    return TokenizerError("the content of the decoder Strip is not one character");
  }
  const Json& start = MemberOrNull(step, "start");
  if (!start.is_number_unsigned() || start.get<uint64_t>() > kStepBytesMax) {
    return TokenizerError(
        fmt::format("\"start\" of the decoder Strip is not 0 to {}", kStepBytesMax));
  }
  rule->strip_count = start.get<size_t>();
  // What ends a text is not known while it streams.
  if (MemberOrNull(step, "stop") != 0) return TokenizerUnsupported("\"stop\" of the decoder Strip");
  return absl::OkStatus();
}

absl::Status ReadSentencePieceSteps(const std::vector<const Json*>& steps, TokenizerParts* parts) {
  std::optional<Stage> before;
  bool fused = false;
  for (const Json* step : steps) {
    OCTAVO_ASSIGN_OR_RETURN(const std::string type, ReadString(*step, "type"));
    OCTAVO_ASSIGN_OR_RETURN(const Stage stage, StageOf(type));
    if (before && (*before > stage || (*before == stage && stage != Stage::kReplace))) {
      return TokenizerUnsupported(fmt::format("the decoder {} at this place", type));
    }
    before = stage;
    if (stage == Stage::kReplace) {
      OCTAVO_RETURN_IF_ERROR(ReadReplace(*step, parts));
    } else if (stage == Stage::kStrip) {
      if (!fused) return TokenizerUnsupported("the decoder Strip without Fuse");
      OCTAVO_RETURN_IF_ERROR(ReadStrip(*step, &parts->decode_rule));
    } else {
      OCTAVO_RETURN_IF_ERROR(
          CheckMembers(*step, fmt::format("the decoder {}", type), kTokenizerJson, {"type"}));
      if (stage == Stage::kByteFallback) parts->decoder_bytes = true;
      if (stage == Stage::kFuse) fused = true;
    }
  }
  parts->decode_rule.replace_each_byte = true;
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadDecoder(const Json& decoder, TokenizerParts* parts) {
  if (decoder.is_null()) return TokenizerUnsupported("a missing decoder");
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                          StepsOf(decoder, "decoder", "decoders"));
  if (steps.empty()) return TokenizerUnsupported("a decoder without steps");
  const bool byte_level = steps.size() == 1 && MemberOrNull(*steps[0], "type") == "ByteLevel";
  if (byte_level != (parts->symbols == SymbolKind::kBytes)) {
    return TokenizerUnsupported(fmt::format("the {} ByteLevel without the {} ByteLevel",
                                            byte_level ? "decoder" : "pre-tokenizer",
                                            byte_level ? "pre-tokenizer" : "decoder"));
  }
  return byte_level ? absl::OkStatus() : ReadSentencePieceSteps(steps, parts);
}

}  // namespace octavo
