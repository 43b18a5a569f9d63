#pragma once

// Token ids to text, one id at a time, for streaming. What Push and Finish return, joined, is what
// Tokenizer::Decode returns for all ids at once; no piece ever ends inside a character.

#include <cstdint>
#include <string>

#include "core/text/tokenizer.h"

namespace octavo {

// Where the first id stands. It matters to SentencePiece, which puts a space before a text and
// takes it away again.
enum class TextPosition {
  kStart,         // at the start of a text: the space goes
  kContinuation,  // after text that is already there: the space stays
};

class Detokenizer {
 public:
  // `tokenizer` must outlive this. With `skip_special`, special tokens give no text.
  Detokenizer(const Tokenizer* tokenizer, bool skip_special,
              TextPosition position = TextPosition::kStart);

  // The text that became certain with this id, always valid UTF-8, often empty while a character is
  // incomplete.
  std::string Push(int32_t id);

  // The rest: U+FFFD if a character stayed incomplete, otherwise nothing. Starts over.
  std::string Finish();

 private:
  void AppendReplacements(size_t bytes, std::string* out) const;
  // Takes off what the decode rule strips from the start of the text. REQUIRES: whole characters.
  void Strip(std::string* text);

  const Tokenizer* tokenizer_;
  bool skip_special_;
  size_t strips_max_;
  size_t strips_left_;
  std::string pending_;  // the bytes of an incomplete character, at most 3
};

}  // namespace octavo
