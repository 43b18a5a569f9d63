#pragma once

// Text to token ids and back: the seam behind which every tokenizer lies.
//
// A Tokenizer is immutable after loading; all of its methods may be called from any number of
// threads at once.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo {

// The longest text that Encode takes, in bytes.
inline constexpr size_t kEncodeBytesMax = size_t{16} << 20;

struct EncodeOptions {
  // Whether the post-processor adds its tokens (BOS and the like). Off for text that comes out of a
  // chat template: a template writes BOS itself.
  bool add_special_tokens = true;
  // Whether text that spells a special token becomes that token; if not, it is text like any other.
  // (Added tokens that are not special are always recognised.)
  bool parse_special = true;
};

// How the bytes of tokens, put together, become text.
struct DecodeRule {
  // Bytes that are no part of a character become one U+FFFD each (SentencePiece); otherwise one for
  // every maximal ill-formed part (byte-level BPE).
  bool replace_each_byte = false;
  // Up to `strip_count` times, `strip` is taken off the start of the text: the space that
  // SentencePiece puts before a text.
  std::string strip;
  size_t strip_count = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Bytes that are not UTF-8 are read as U+FFFD, one for each maximal invalid part, as Rust's and
  // Python's lossy decoders do. Errors: kBadRequest for text longer than kEncodeBytesMax or for
  // which a regular expression of the pre-tokenizer passed its limits.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      EncodeOptions options) const = 0;

  // Valid UTF-8 (U+FFFD where the bytes of the tokens are not). Ids that name no token give
  // nothing. `ids` are taken for a text of its own, not the continuation of one. For text that
  // arrives token by token use Detokenizer.
  virtual std::string Decode(std::span<const int32_t> ids, bool skip_special) const = 0;

  // The bytes that a token stands for, perhaps a part of a character; empty for an id that names no
  // token. The view lives as long as the tokenizer.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  virtual const DecodeRule& decode_rule() const = 0;

  // The id of a token written as in the file: "<|im_end|>", "▁the" (SentencePiece) or, in the byte
  // alphabet, "Ġthe".
  virtual std::optional<int32_t> TokenId(std::string_view content) const = 0;

  // One more than the largest id. Ids in between may be unused.
  virtual int32_t vocab_size() const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;
};

// Reads the content of a tokenizer.json (Hugging Face `tokenizers`), BPE over bytes or, as
// SentencePiece does it, over characters. Tokens that only `tokenizer_config_json` lists
// (added_tokens_decoder; pass "" if there is no such file) are added, as `transformers` does.
// Strict: what is not understood is refused by name.
// Errors: kBadCheckpoint (malformed, inconsistent, beyond the bounds of tokenizer_parts.h),
// kUnsupported (well formed, but a component that is not handled).
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json = {});

// The same for a tokenizer.model (SentencePiece, kind BPE): see sentencepiece_model.h.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(
    std::string_view tokenizer_model, std::string_view tokenizer_config_json = {});

}  // namespace octavo
