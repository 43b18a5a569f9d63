#include "core/text/sentencepiece_model.h"

#include <algorithm>
#include <cmath>

#include "compat/sentencepiece_model.pb.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/text/json_bounded.h"
#include "core/text/utf8.h"
#include "fmt/format.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"

namespace octavo {
namespace {

using Model = compat::SentencePieceModel;
using Piece = Model::Piece;
using google::protobuf::internal::WireFormatLite;

absl::Status Bad(std::string_view what) {
  return MakeError(Reason::kBadCheckpoint, what, {.file = kTokenizerModel});
}

absl::Status Unsupported(std::string_view what) {
  return MakeError(Reason::kUnsupported, fmt::format("{} is not handled", what),
                   {.file = kTokenizerModel},
                   "Octavo reads SentencePiece models of kind BPE, and tokenizer.json");
}

// Whether there are at most `max` fields of number 1: what a message of empty pieces would take
// in memory is many times its size in the file.
bool HasAtMostPieces(std::string_view bytes, size_t max) {
  google::protobuf::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()),
                                            static_cast<int>(bytes.size()));
  size_t pieces = 0;
  while (const uint32_t tag = in.ReadTag()) {
    if (WireFormatLite::GetTagFieldNumber(tag) == Model::kPiecesFieldNumber && ++pieces > max) {
      return false;
    }
    if (!WireFormatLite::SkipField(&in, tag)) break;  // the parser will say so
  }
  return true;
}

absl::StatusOr<Model> ParseModel(std::string_view bytes) {
  if (bytes.size() > kSentencePieceFileMax) {
    return Bad(fmt::format("{} bytes, at most {} are read", bytes.size(), kSentencePieceFileMax));
  }
  if (!HasAtMostPieces(bytes, kVocabularyMax)) {
    return Bad(fmt::format("more than {} pieces", kVocabularyMax));
  }
  Model model;
  if (!model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Bad("not a SentencePiece model");
  }
  if (model.pieces().empty()) return Bad("there are no pieces");
  return model;
}

absl::Status CheckSettings(const Model& model) {
  if (model.trainer_spec().model_type() != Model::BPE) {
    return Unsupported(fmt::format("a SentencePiece model of kind {}",
                                   Model::Kind_Name(model.trainer_spec().model_type())));
  }
  if (model.trainer_spec().treat_whitespace_as_suffix()) {
    return Unsupported("treat_whitespace_as_suffix");
  }
  if (!model.normalizer_spec().escape_whitespaces()) {
    return Unsupported("escape_whitespaces: false");
  }
  if (!model.denormalizer_spec().precompiled_charsmap().empty()) {
    return Unsupported("a denormalizer");
  }
  return absl::OkStatus();
}

absl::Status CheckPiece(const Piece& piece, int32_t id) {
  const std::string& text = piece.piece();
  if (text.empty() || text.size() > kPieceBytesMax || !IsUtf8(text)) {
    return Bad(fmt::format("piece {} is not 1 to {} bytes of UTF-8", id, kPieceBytesMax));
  }
  if (std::isnan(piece.score())) return Bad(fmt::format("the score of piece {} is no number", id));
  if (piece.type() == Piece::UNUSED) return Unsupported(fmt::format("the unused piece {}", id));
  const std::optional<uint8_t> byte = ByteOfToken(text);
  if (piece.type() == Piece::BYTE && (!byte || TokenOfByte(*byte) != text)) {
    return Bad(fmt::format("piece {} (\"{}\") is of type byte and names none", id, text));
  }
  return absl::OkStatus();
}

// Pieces by id, and which text is a token before anything else.
absl::Status ReadPieces(const Model& model, TokenizerParts* parts, IdsByToken* ids) {
  size_t bytes = 0;
  for (int32_t id = 0; id < model.pieces_size(); ++id) {
    const Piece& piece = model.pieces(id);
    OCTAVO_RETURN_IF_ERROR(CheckPiece(piece, id));
    if (!ids->emplace(piece.piece(), id).second) {
      return Bad(fmt::format("the piece \"{}\" is there twice", piece.piece()));
    }
    OCTAVO_RETURN_IF_ERROR(ClaimId(id, piece.piece(), kTokenizerModel, parts));
    parts->in_model.push_back(piece.type() == Piece::NORMAL || piece.type() == Piece::BYTE);
    if (piece.type() == Piece::BYTE) ++bytes;
    if (piece.type() == Piece::UNKNOWN) {
      if (parts->unknown_id) return Bad("two pieces are of type unknown");
      parts->unknown_id = id;
    }
    if (parts->in_model.back()) continue;
    const bool special = piece.type() != Piece::USER_DEFINED;
    // User-defined pieces are looked for in the text as it is normalized, as they are written.
    parts->added.Add(
        {.id = id, .content = piece.piece(), .normalized = !special, .special = special},
        piece.piece());
  }
  if (!parts->unknown_id) return Bad("no piece is of type unknown");
  parts->byte_fallback = model.trainer_spec().byte_fallback();
  if (bytes != (parts->byte_fallback ? 256u : 0u)) {
    return Bad(
        fmt::format("{} pieces are bytes, and byte_fallback is {}", bytes, parts->byte_fallback));
  }
  return absl::OkStatus();
}

// Any two pieces whose texts make up a third are merged into it, those that make the piece of the
// highest score first.
absl::Status ReadMerges(const Model& model, const IdsByToken& ids, TokenizerParts* parts) {
  std::vector<float> scores;
  for (const Piece& piece : model.pieces()) scores.push_back(piece.score());
  std::ranges::sort(scores, std::greater());
  const auto normal = [&](const std::string& text) -> std::optional<int32_t> {
    const auto found = ids.find(text);
    if (found == ids.end() || model.pieces(found->second).type() != Piece::NORMAL) {
      return std::nullopt;
    }
    return found->second;
  };
  for (int32_t id = 0; id < model.pieces_size(); ++id) {
    const Piece& piece = model.pieces(id);
    if (piece.type() != Piece::NORMAL) continue;
    const auto rank = std::ranges::lower_bound(scores, piece.score(), std::greater());
    const std::string& text = piece.piece();
    for (size_t cut = 0; cut < text.size();) {
      const size_t size = DecodeUtf8(std::string_view(text).substr(cut)).size;
      if (size < text.size() && !normal(text.substr(cut, size))) {
        return Unsupported(
            fmt::format("the piece \"{}\" with a character that is no piece itself", text));
      }
      cut += size;
      if (cut == text.size()) break;
      const auto left = normal(text.substr(0, cut));
      const auto right = left ? normal(text.substr(cut)) : std::nullopt;
      if (right) parts->merges.Add(*left, *right, id, static_cast<uint32_t>(rank - scores.begin()));
    }
    if (parts->merges.size() > kMergesMax)
      return Bad(fmt::format("more than {} merges", kMergesMax));
  }
  return absl::OkStatus();
}

absl::Status ReadNormalizerSpec(const Model& model, TokenizerParts* parts) {
  const auto& spec = model.normalizer_spec();
  SentencePieceNormalizer step;
  step.add_mark = spec.add_dummy_prefix();
  step.remove_extra_spaces = spec.remove_extra_whitespaces();
  if (!spec.precompiled_charsmap().empty()) {
    OCTAVO_ASSIGN_OR_RETURN(step.charsmap,
                            Charsmap::Parse(spec.precompiled_charsmap(), kTokenizerModel));
  }
  for (const AddedTokenRule& token : parts->added.all()) {
    if (!token.special) step.kept.Add(token.content, token.id);
  }
  if (step.add_mark || step.remove_extra_spaces) {
    parts->decode_rule.strip.assign(1, ' ');
    parts->decode_rule.strip_count = step.remove_extra_spaces ? kPieceBytesMax : 1;
  }
  parts->normalizer.AddSentencePiece(std::move(step));
  return absl::OkStatus();
}

absl::Status AddEnd(const Model& model, int32_t id, std::string_view name,
                    std::vector<int32_t>* ids) {
  if (id < 0 || id >= model.pieces_size() || model.pieces(id).type() != Piece::CONTROL) {
    return Bad(fmt::format("{} is {}, which is no control piece", name, id));
  }
  ids->push_back(id);
  return absl::OkStatus();
}

absl::Status ReadConfig(const Model& model, std::string_view config_json, TokenizerParts* parts) {
  constexpr std::string_view kFile = "tokenizer_config.json";
  nlohmann::json config;
  if (!config_json.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(config, ParseBoundedJson(config_json, kFile, kConfigFileMax));
  }
  for (const char* name : {"legacy", "add_prefix_space"}) {
    if (MemberOrNull(config, name) == false) {
      return MakeError(Reason::kUnsupported,
                       fmt::format("\"{}\": false with a tokenizer.model is not handled", name),
                       {.file = kFile}, "Save the tokenizer as tokenizer.json");
    }
  }
  const auto& trainer = model.trainer_spec();
  // Models without BOS have the id -1.
  const nlohmann::json& bos = MemberOrNull(config, "add_bos_token");
  const bool add_bos = bos == true || (bos != false && trainer.bos_id() >= 0);
  const bool add_eos = MemberOrNull(config, "add_eos_token") == true;
  if (add_bos) {
    OCTAVO_RETURN_IF_ERROR(AddEnd(model, trainer.bos_id(), "bos_id", &parts->prefix_ids));
  }
  if (add_eos) {
    OCTAVO_RETURN_IF_ERROR(AddEnd(model, trainer.eos_id(), "eos_id", &parts->suffix_ids));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ParseSentencePieceModel(std::string_view tokenizer_model,
                                                       std::string_view tokenizer_config_json) {
  OCTAVO_ASSIGN_OR_RETURN(const Model model, ParseModel(tokenizer_model));
  OCTAVO_RETURN_IF_ERROR(CheckSettings(model));
  TokenizerParts parts;
  parts.symbols = SymbolKind::kCharacters;
  parts.fuse_unknown = true;
  parts.decoder_replaces.emplace_back(SentencePieceNormalizer::kMark, " ");
  parts.decoder_bytes = true;
  parts.decode_rule.replace_each_byte = true;
  IdsByToken ids;
  OCTAVO_RETURN_IF_ERROR(ReadPieces(model, &parts, &ids));
  OCTAVO_RETURN_IF_ERROR(ReadMerges(model, ids, &parts));
  OCTAVO_RETURN_IF_ERROR(ReadNormalizerSpec(model, &parts));
  OCTAVO_RETURN_IF_ERROR(ReadConfig(model, tokenizer_config_json, &parts));
  return parts;
}

}  // namespace octavo
