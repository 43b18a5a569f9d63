#pragma once

// What every tokenizer must hold, whatever file it came from.

#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/text/detokenizer.h"
#include "core/text/utf8.h"

namespace octavo {

// Encodes `text`, if the tokenizer can; ids exist, and pieces are whole characters that join to the
// decoded text. Aborts otherwise.
inline void EncodeAndDecode(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    const auto ids =
        tokenizer.Encode(text, {.add_special_tokens = special, .parse_special = special});
    if (!ids.ok()) continue;
    Detokenizer detokenizer(&tokenizer, special);
    std::string joined;
    for (const int32_t id : *ids) {
      OCTAVO_CHECK(id >= 0 && id < tokenizer.vocab_size());
      const std::string piece = detokenizer.Push(id);
      OCTAVO_CHECK(IsUtf8(piece));
      joined += piece;
    }
    joined += detokenizer.Finish();
    OCTAVO_CHECK(joined == tokenizer.Decode(*ids, special));
  }
}

}  // namespace octavo
