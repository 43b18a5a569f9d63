#pragma once

// Token ids to text, one id at a time, for streaming. What Push and Finish return, joined, is what
// Tokenizer::Decode returns for all ids at once; no piece ever ends inside a character.

#include <cstdint>
#include <string>

#include "core/text/tokenizer.h"

namespace octavo {

class Detokenizer {
 public:
  // `tokenizer` must outlive this. With `skip_special`, special tokens give no text.
  Detokenizer(const Tokenizer* tokenizer, bool skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  // The text that became certain with this id, always valid UTF-8, often empty while a character is
  // incomplete.
  std::string Push(int32_t id);

  // The rest: U+FFFD if a character stayed incomplete, otherwise nothing. Starts over.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // the bytes of an incomplete character, at most 3
};

}  // namespace octavo
