#pragma once

// From the text of a template to tokens: what lies between tags, and what tags are made of.
//
// White space is controlled as `transformers` sets it up: a line break right after a block or a
// comment goes (trim_blocks), and so do spaces and tabs before one at the start of a line
// (lstrip_blocks); "-" takes all white space on its side, "+" leaves it. One line break at the end
// of the text goes. Line breaks become \n.

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

enum class TokenKind {
  kData,           // text between tags
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,
  kNumber,
  kOperator,
  kEnd,  // of the template
};

struct Token {
  TokenKind kind;
  int line;
  std::string text = {};  // of data, names, strings (without escapes) and operators
  Value number = {};      // of numbers
};

// The last token is kEnd. Errors: kUnsupported, with the line, for what Jinja refuses, and for the
// escapes \N{...} and lone surrogates.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

// "line N: what", kUnsupported.
absl::Status SyntaxError(int line, std::string_view what);

}  // namespace octavo::jinja
